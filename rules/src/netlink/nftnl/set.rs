//! Sets and maps: their definitions, and elements written and read.

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_void;
use std::ptr::NonNull;

use nftnl_sys as sys;

use super::{Set, bytes, c_string, expr};
use crate::element::{Key, Value, decode_value};
use crate::schema::{self, Kind, SetId};

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
        if set.kind.is_dynamic() {
            put(sys::NFTNL_SET_DESC_SIZE, schema::SOURCES);
        }
        if set.kind.is_interval() {
            let lens: Vec<u8> = set.key().iter().map(|field| set.exact_len(*field)).collect();
            // SAFETY: libnftnl copies the data, which are one length for each field of a key.
            unsafe {
                let (data, len) = (lens.as_ptr().cast::<c_void>(), lens.len() as u32);
                sys::nftnl_set_set_data(object.raw(), sys::NFTNL_SET_DESC_CONCAT as u16, data, len);
            }
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
        if let Some(end) = key.encode_end() {
            put(sys::NFTNL_SET_ELEM_KEY_END, &end);
        }
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
            let counting = match key.set().kind {
                Kind::Refused => Some(expr::counter()),
                _ => value.limit.map(expr::count_over),
            };
            if let Some(counting) = counting {
                // SAFETY: both are live, and the element takes the expression over.
                unsafe { sys::nftnl_set_elem_add_expr(element.as_ptr(), counting) };
            }
        }
        // SAFETY: the set takes the element over and frees it with itself.
        unsafe { sys::nftnl_set_elem_add(self.raw(), element.as_ptr()) };
    }
}

/// linux/netfilter/nf_tables.h: NFT_SET_CONCAT
const SET_CONCAT: i32 = 0x80;

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
            flags: flag(set.kind.is_map(), libc::NFT_SET_MAP)
                | flag(set.kind.is_timed(), libc::NFT_SET_TIMEOUT)
                | flag(set.kind.is_dynamic(), libc::NFT_SET_EVAL)
                | flag(set.kind.is_interval(), libc::NFT_SET_INTERVAL | SET_CONCAT),
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
    /// What the element's counter has counted.
    pub packets: Option<u64>,
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
            let end = get(sys::NFTNL_SET_ELEM_KEY_END);
            let mut counted = None;
            if set.kind == Kind::Refused {
                sys::nftnl_set_elem_expr_foreach(element, Some(read_counter), (&raw mut counted).cast());
            }
            let timeout = get(sys::NFTNL_SET_ELEM_EXPIRATION).and_then(|ms| ms.try_into().ok());
            each(Found {
                key: get(sys::NFTNL_SET_ELEM_KEY).and_then(|key| Key::decode(set, key, end)),
                value: Value {
                    backend: get(sys::NFTNL_SET_ELEM_DATA).and_then(|data| decode_value(set, data)),
                    deadline: None,
                    note: get(sys::NFTNL_SET_ELEM_USERDATA).and_then(schema::comment_in),
                    limit: None,
                },
                expires_in_ms: timeout.map(u64::from_ne_bytes),
                packets: counted,
            });
        }
        sys::nftnl_set_elems_iter_destroy(iter);
    }
}

/// Called by libnftnl for each expression of an element; `counted` points to an `Option<u64>`.
unsafe extern "C" fn read_counter(expr: *mut sys::nftnl_expr, counted: *mut c_void) -> i32 {
    // SAFETY: `expr` is alive during the call, and `counted` is what `elements` passed along.
    unsafe {
        if sys::nftnl_expr_is_set(expr, sys::NFTNL_EXPR_CTR_PACKETS as u16) {
            let packets = sys::nftnl_expr_get_u64(expr, sys::NFTNL_EXPR_CTR_PACKETS as u16);
            *counted.cast::<Option<u64>>() = Some(packets);
        }
    }
    0
}
