//! libnftnl's objects, owned: each is freed when it is dropped, and what it points to outlives no call.
//!
//! An object is built complete by one function and then only written into a message or read.

mod expr;

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use nftnl_sys as sys;

use crate::element::{Key, Value, decode_value};
use crate::ruleset;
use crate::schema::{self, SetId};

macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $alloc:path, $free:path) => {
        $(#[$doc])*
        pub struct $name(NonNull<$raw>);

        impl $name {
            pub fn new() -> Self {
                // SAFETY: a function without arguments that returns a new object or null.
                Self(NonNull::new(unsafe { $alloc() }).unwrap_or_else(|| handle_alloc_error(Layout::new::<usize>())))
            }

            pub const fn raw(&self) -> *mut $raw {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object is ours alone and is not used again.
                unsafe { $free(self.0.as_ptr()) };
            }
        }
    };
}

object!(Table, sys::nftnl_table, sys::nftnl_table_alloc, sys::nftnl_table_free);
object!(Chain, sys::nftnl_chain, sys::nftnl_chain_alloc, sys::nftnl_chain_free);
object!(Rule, sys::nftnl_rule, sys::nftnl_rule_alloc, sys::nftnl_rule_free);
object!(
    /// A set or map, and elements of it.
    Set, sys::nftnl_set, sys::nftnl_set_alloc, sys::nftnl_set_free
);

/// Names of ours and of the configuration: a NUL in one cuts it short, which only makes it another name.
fn c_string(text: &str) -> CString {
    let bytes = text.bytes().take_while(|byte| *byte != 0).collect::<Vec<_>>();
    CString::new(bytes).unwrap_or_default()
}

impl Table {
    pub fn named(name: &str, comment: Option<&str>) -> Self {
        let table = Self::new();
        let userdata = comment.map(schema::comment).unwrap_or_default();
        // SAFETY: libnftnl copies strings and data before it returns.
        unsafe {
            sys::nftnl_table_set_u32(table.raw(), sys::NFTNL_TABLE_FAMILY as u16, libc::NFPROTO_INET as u32);
            sys::nftnl_table_set_str(table.raw(), sys::NFTNL_TABLE_NAME as u16, c_string(name).as_ptr());
            if !userdata.is_empty() {
                let (data, len) = (userdata.as_ptr().cast::<c_void>(), userdata.len() as u32);
                sys::nftnl_table_set_data(table.raw(), sys::NFTNL_TABLE_USERDATA as u16, data, len);
            }
        }
        table
    }
}

impl Chain {
    pub fn of(table: &str, chain: &ruleset::Chain) -> Self {
        let object = Self::named(table, chain.name);
        if let Some(hook) = &chain.hook {
            // SAFETY: libnftnl copies strings before it returns.
            unsafe {
                sys::nftnl_chain_set_str(object.raw(), sys::NFTNL_CHAIN_TYPE as u16, c_string(hook.kind).as_ptr());
                sys::nftnl_chain_set_u32(object.raw(), sys::NFTNL_CHAIN_HOOKNUM as u16, hook.number);
                sys::nftnl_chain_set_s32(object.raw(), sys::NFTNL_CHAIN_PRIO as u16, hook.priority);
                sys::nftnl_chain_set_u32(object.raw(), sys::NFTNL_CHAIN_POLICY as u16, libc::NF_ACCEPT as u32);
            }
        }
        object
    }

    pub fn named(table: &str, name: &str) -> Self {
        let object = Self::new();
        // SAFETY: libnftnl copies strings before it returns.
        unsafe {
            sys::nftnl_chain_set_u32(object.raw(), sys::NFTNL_CHAIN_FAMILY as u16, libc::NFPROTO_INET as u32);
            sys::nftnl_chain_set_str(object.raw(), sys::NFTNL_CHAIN_TABLE as u16, c_string(table).as_ptr());
            sys::nftnl_chain_set_str(object.raw(), sys::NFTNL_CHAIN_NAME as u16, c_string(name).as_ptr());
        }
        object
    }
}

impl Set {
    pub fn named(table: &str, name: &str) -> Self {
        let object = Self::new();
        // SAFETY: libnftnl copies strings before it returns.
        unsafe {
            sys::nftnl_set_set_u32(object.raw(), sys::NFTNL_SET_FAMILY as u16, libc::NFPROTO_INET as u32);
            sys::nftnl_set_set_str(object.raw(), sys::NFTNL_SET_TABLE as u16, c_string(table).as_ptr());
            sys::nftnl_set_set_str(object.raw(), sys::NFTNL_SET_NAME as u16, c_string(name).as_ptr());
        }
        object
    }

    /// The definition of one of our sets. Without a size the kernel makes it a hash table that grows and shrinks.
    /// `number` names the set within a transaction.
    pub fn of(table: &str, set: SetId, number: u32) -> Self {
        let object = Self::named(table, set.name());
        let definition = Definition::of(set);
        let put = |attribute: u32, value: u32| {
            // SAFETY: a plain store into the object.
            unsafe { sys::nftnl_set_set_u32(object.raw(), attribute as u16, value) };
        };
        put(sys::NFTNL_SET_ID, number);
        put(sys::NFTNL_SET_FLAGS, definition.flags);
        put(sys::NFTNL_SET_KEY_TYPE, definition.key_type);
        put(sys::NFTNL_SET_KEY_LEN, definition.key_len);
        if set.kind.is_map() {
            put(sys::NFTNL_SET_DATA_TYPE, definition.data_type);
            put(sys::NFTNL_SET_DATA_LEN, definition.data_len);
        }
        object
    }

    /// Adds an element; `value` is not needed to delete it.
    pub fn add(&self, key: &Key, value: Option<(&Value, u64)>) {
        // SAFETY: a function without arguments that returns a new object or null.
        let Some(element) = NonNull::new(unsafe { sys::nftnl_set_elem_alloc() }) else {
            handle_alloc_error(Layout::new::<usize>())
        };
        let put = |attribute: u32, bytes: &[u8]| {
            let (data, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as u32);
            // SAFETY: `data` is valid for `len` bytes, which libnftnl copies. Keys and values are no longer than its
            // 64 bytes of registers.
            unsafe { sys::nftnl_set_elem_set(element.as_ptr(), attribute as u16, data, len) };
        };
        put(sys::NFTNL_SET_ELEM_KEY, &key.encode());
        if let Some((value, timeout_ms)) = value {
            if let Some(data) = value.encode() {
                put(sys::NFTNL_SET_ELEM_DATA, &data);
            }
            if let Some(note) = &value.note {
                put(sys::NFTNL_SET_ELEM_USERDATA, &schema::comment(note));
            }
            if value.deadline.is_some() {
                put(sys::NFTNL_SET_ELEM_TIMEOUT, &timeout_ms.to_ne_bytes());
            }
        }
        // SAFETY: the set takes the element over and frees it with itself.
        unsafe { sys::nftnl_set_elem_add(self.raw(), element.as_ptr()) };
    }
}

/// What makes a set the set that we install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    pub flags: u32,
    pub key_type: u32,
    pub key_len: u32,
    pub data_type: u32,
    pub data_len: u32,
}

impl Definition {
    pub fn of(set: SetId) -> Self {
        let flag = |set: bool, flag: i32| if set { flag as u32 } else { 0 };
        Self {
            flags: flag(set.kind.is_map(), libc::NFT_SET_MAP) | flag(set.kind.is_timed(), libc::NFT_SET_TIMEOUT),
            key_type: set.type_number(set.key()),
            key_len: set.len(set.key()) as u32,
            data_type: set.type_number(set.value()),
            data_len: set.len(set.value()) as u32,
        }
    }
}

/// An element as the kernel holds it.
pub struct Found {
    /// `None`: nothing that belongs into the set, such as a catch-all.
    pub key: Option<Key>,
    pub value: Value,
    pub expires_in_ms: Option<u64>,
}

/// Calls `each` with every element that `object`, read from the kernel, holds.
pub fn elements(object: &Set, set: SetId, mut each: impl FnMut(Found)) {
    // SAFETY: the iterator is used only while `object` lives and is destroyed below; elements stay the set's, and the
    // slices made of their attributes are copied before the next call.
    unsafe {
        let iter = sys::nftnl_set_elems_iter_create(object.raw());
        if iter.is_null() {
            handle_alloc_error(Layout::new::<usize>())
        }
        loop {
            let element = sys::nftnl_set_elems_iter_next(iter);
            if element.is_null() {
                break;
            }
            let get = |attribute: u32| {
                let mut len = 0;
                if !sys::nftnl_set_elem_is_set(element, attribute as u16) {
                    return None;
                }
                let data = sys::nftnl_set_elem_get(element, attribute as u16, &raw mut len);
                bytes(data, len)
            };
            let timeout = get(sys::NFTNL_SET_ELEM_EXPIRATION).and_then(|ms| ms.try_into().ok());
            each(Found {
                key: get(sys::NFTNL_SET_ELEM_KEY).and_then(|key| Key::decode(set, key)),
                value: Value {
                    backend: get(sys::NFTNL_SET_ELEM_DATA).and_then(|data| decode_value(set, data)),
                    deadline: None,
                    note: get(sys::NFTNL_SET_ELEM_USERDATA).and_then(schema::comment_in),
                },
                expires_in_ms: timeout.map(u64::from_ne_bytes),
            });
        }
        sys::nftnl_set_elems_iter_destroy(iter);
    }
}

/// # Safety
/// `data` is null or valid for `len` bytes for as long as the result is used.
pub unsafe fn bytes<'a>(data: *const c_void, len: u32) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise, and null is excluded.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len as usize) })
}

impl Rule {
    pub fn of(table: &str, chain: &str, rule: &ruleset::Rule) -> Self {
        let object = Self::in_chain(table, chain);
        let userdata = schema::comment(rule.comment);
        // SAFETY: libnftnl copies the data; the rule takes the expressions over.
        unsafe {
            let (data, len) = (userdata.as_ptr().cast::<c_void>(), userdata.len() as u32);
            sys::nftnl_rule_set_data(object.raw(), sys::NFTNL_RULE_USERDATA as u16, data, len);
            for expr in &rule.exprs {
                sys::nftnl_rule_add_expr(object.raw(), expr::build(expr));
            }
        }
        object
    }

    pub fn in_chain(table: &str, chain: &str) -> Self {
        let object = Self::new();
        // SAFETY: libnftnl copies strings before it returns.
        unsafe {
            sys::nftnl_rule_set_u32(object.raw(), sys::NFTNL_RULE_FAMILY as u16, libc::NFPROTO_INET as u32);
            sys::nftnl_rule_set_str(object.raw(), sys::NFTNL_RULE_TABLE as u16, c_string(table).as_ptr());
            sys::nftnl_rule_set_str(object.raw(), sys::NFTNL_RULE_CHAIN as u16, c_string(chain).as_ptr());
        }
        object
    }

    /// A rule from a dump's message, which must be whole and in memory aligned for netlink.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let object = Self::new();
        // SAFETY: the message's own length was checked against the received bytes when it was cut out of them.
        let read = unsafe { sys::nftnl_rule_nlmsg_parse(message.as_ptr().cast(), object.raw()) };
        (read >= 0).then_some(object)
    }

    pub fn table(&self) -> String {
        // SAFETY: the string stays the rule's and is copied at once.
        unsafe { string(sys::nftnl_rule_get_str(self.raw(), sys::NFTNL_RULE_TABLE as u16)) }
    }

    pub fn chain(&self) -> String {
        // SAFETY: as above.
        unsafe { string(sys::nftnl_rule_get_str(self.raw(), sys::NFTNL_RULE_CHAIN as u16)) }
    }

    /// The rule in libnftnl's words, one expression per line, without the counts of its counters. Two rules with the
    /// same text do the same.
    pub fn text(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.expressions(|name, expr| {
            let mut line = name.to_owned();
            if name != "counter" {
                line.push(' ');
                line.push_str(&expr::text(expr));
            }
            lines.push(line);
        });
        lines
    }

    /// Calls `each` with every expression of the rule and its name.
    pub fn expressions(&self, mut each: impl FnMut(&str, *mut sys::nftnl_expr)) {
        // SAFETY: the iterator is used only while the rule lives and is destroyed below; expressions stay the rule's.
        unsafe {
            let iter = sys::nftnl_expr_iter_create(self.raw());
            if iter.is_null() {
                handle_alloc_error(Layout::new::<usize>())
            }
            loop {
                let expr = sys::nftnl_expr_iter_next(iter);
                if expr.is_null() {
                    break;
                }
                let name = string(sys::nftnl_expr_get_str(expr, sys::NFTNL_EXPR_NAME as u16));
                each(&name, expr);
            }
            sys::nftnl_expr_iter_destroy(iter);
        }
    }
}

/// # Safety
/// `string` is null or a C string.
pub unsafe fn string(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise, and null is excluded.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
