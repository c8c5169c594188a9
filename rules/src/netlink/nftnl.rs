//! libnftnl's objects, owned: each is freed when it is dropped, and what it points to outlives no call.
//!
//! An object is built complete by one function and then only written into a message or read.

mod expr;
mod rule;
mod set;

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use nftnl_sys as sys;

pub use self::rule::Expression;
pub use self::set::{Definition, Found, elements};
use crate::{ruleset, schema};

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

impl Table {
    /// A table from a dump's message, which must be whole and in memory aligned for netlink.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let object = Self::new();
        // SAFETY: the message's own length was checked against the received bytes when it was cut out of them.
        let read = unsafe { sys::nftnl_table_nlmsg_parse(message.as_ptr().cast(), object.raw()) };
        (read >= 0).then_some(object)
    }

    pub fn name(&self) -> String {
        // SAFETY: the string stays the table's and is copied at once.
        unsafe { string(sys::nftnl_table_get_str(self.raw(), sys::NFTNL_TABLE_NAME as u16)) }
    }

    pub fn family(&self) -> u32 {
        // SAFETY: a plain load from the object.
        unsafe { sys::nftnl_table_get_u32(self.raw(), sys::NFTNL_TABLE_FAMILY as u16) }
    }

    pub fn comment(&self) -> Option<String> {
        let mut len = 0;
        // SAFETY: the data stay the table's and are copied at once.
        unsafe {
            let data = sys::nftnl_table_get_data(self.raw(), sys::NFTNL_TABLE_USERDATA as u16, &raw mut len);
            bytes(data, len).and_then(schema::comment_in)
        }
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

impl Chain {
    /// A chain from a dump's message, which must be whole and in memory aligned for netlink.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let object = Self::new();
        // SAFETY: the message's own length was checked against the received bytes when it was cut out of them.
        let read = unsafe { sys::nftnl_chain_nlmsg_parse(message.as_ptr().cast(), object.raw()) };
        (read >= 0).then_some(object)
    }

    pub fn name(&self) -> String {
        self.text(sys::NFTNL_CHAIN_NAME)
    }

    pub fn table(&self) -> String {
        self.text(sys::NFTNL_CHAIN_TABLE)
    }

    pub fn family(&self) -> u32 {
        self.number(sys::NFTNL_CHAIN_FAMILY)
    }

    /// `None`: not a base chain.
    pub fn hook(&self) -> Option<FoundHook> {
        // SAFETY: a plain look into the object.
        unsafe { sys::nftnl_chain_is_set(self.raw(), sys::NFTNL_CHAIN_HOOKNUM as u16) }.then(|| FoundHook {
            kind: self.text(sys::NFTNL_CHAIN_TYPE),
            number: self.number(sys::NFTNL_CHAIN_HOOKNUM),
            // SAFETY: a plain load from the object.
            priority: unsafe { sys::nftnl_chain_get_s32(self.raw(), sys::NFTNL_CHAIN_PRIO as u16) },
            policy: self.number(sys::NFTNL_CHAIN_POLICY),
        })
    }

    fn text(&self, attribute: u32) -> String {
        // SAFETY: the string stays the chain's and is copied at once.
        unsafe { string(sys::nftnl_chain_get_str(self.raw(), attribute as u16)) }
    }

    fn number(&self, attribute: u32) -> u32 {
        // SAFETY: a plain load from the object.
        unsafe { sys::nftnl_chain_get_u32(self.raw(), attribute as u16) }
    }
}

/// Where a chain hooks in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundHook {
    pub kind: String,
    pub number: u32,
    pub priority: i32,
    pub policy: u32,
}

impl FoundHook {
    pub fn of(hook: &ruleset::Hook) -> Self {
        Self {
            kind: hook.kind.to_owned(),
            number: hook.number,
            priority: hook.priority,
            policy: libc::NF_ACCEPT as u32,
        }
    }
}

/// # Safety
/// `data` is null or valid for `len` bytes for as long as the result is used.
pub unsafe fn bytes<'a>(data: *const c_void, len: u32) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise, and null is excluded.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len as usize) })
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
