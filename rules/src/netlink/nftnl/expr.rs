//! Expressions of rules, built from our own form.

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::CStr;

use nftnl_sys as sys;

use super::c_string;
use crate::ruleset::expr::{Direction, Expr};
use crate::schema::Family;

// linux/netfilter/nf_nat.h
const PROTO_RANDOM_FULLY: u32 = 1 << 4;

/// Registers as the kernel writes them: by the old numbers of 16-byte registers where these begin.
const fn register(number: u32) -> u32 {
    if number.is_multiple_of(4) { libc::NFT_REG_1 as u32 + number / 4 } else { libc::NFT_REG32_00 as u32 + number }
}

/// An expression, which the caller gives to a rule.
pub fn build(expr: &Expr) -> *mut sys::nftnl_expr {
    let data = |object, attribute: u32, bytes: &[u8]| {
        // SAFETY: `object` is a live expression; libnftnl copies the bytes.
        unsafe { sys::nftnl_expr_set(object, attribute as u16, bytes.as_ptr().cast(), bytes.len() as u32) };
    };
    let string = |object, attribute: u32, text: &str| {
        // SAFETY: `object` is a live expression; libnftnl copies the string.
        unsafe { sys::nftnl_expr_set_str(object, attribute as u16, c_string(text).as_ptr()) };
    };
    let verdict = |code: i32, chain: Option<&str>| {
        let object = new(c"immediate");
        number(object, sys::NFTNL_EXPR_IMM_DREG, libc::NFT_REG_VERDICT as u32);
        number(object, sys::NFTNL_EXPR_IMM_VERDICT, code as u32);
        if let Some(chain) = chain {
            string(object, sys::NFTNL_EXPR_IMM_CHAIN, chain);
        }
        object
    };
    let compare = |op: i32, reg: u32, bytes: &[u8]| {
        let object = new(c"cmp");
        number(object, sys::NFTNL_EXPR_CMP_SREG, register(reg));
        number(object, sys::NFTNL_EXPR_CMP_OP, op as u32);
        data(object, sys::NFTNL_EXPR_CMP_DATA, bytes);
        object
    };
    match expr {
        Expr::Meta { key, reg } => {
            let object = new(c"meta");
            number(object, sys::NFTNL_EXPR_META_KEY, *key as u32);
            number(object, sys::NFTNL_EXPR_META_DREG, register(*reg));
            object
        }
        Expr::Payload { base, offset, len, reg } => {
            let object = new(c"payload");
            number(object, sys::NFTNL_EXPR_PAYLOAD_BASE, *base as u32);
            number(object, sys::NFTNL_EXPR_PAYLOAD_OFFSET, *offset);
            number(object, sys::NFTNL_EXPR_PAYLOAD_LEN, *len);
            number(object, sys::NFTNL_EXPR_PAYLOAD_DREG, register(*reg));
            object
        }
        Expr::Ct { key, direction, reg } => {
            let object = new(c"ct");
            number(object, sys::NFTNL_EXPR_CT_KEY, *key as u32);
            number(object, sys::NFTNL_EXPR_CT_DREG, register(*reg));
            if let Some(direction) = direction {
                // SAFETY: `object` is a live expression; a plain store. IP_CT_DIR_ORIGINAL is 0, IP_CT_DIR_REPLY 1.
                unsafe {
                    let direction = u8::from(*direction == Direction::Reply);
                    sys::nftnl_expr_set_u8(object, sys::NFTNL_EXPR_CT_DIR as u16, direction);
                }
            }
            object
        }
        Expr::And { reg, mask } => {
            let object = new(c"bitwise");
            number(object, sys::NFTNL_EXPR_BITWISE_SREG, register(*reg));
            number(object, sys::NFTNL_EXPR_BITWISE_DREG, register(*reg));
            number(object, sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32);
            data(object, sys::NFTNL_EXPR_BITWISE_MASK, mask);
            data(object, sys::NFTNL_EXPR_BITWISE_XOR, &vec![0; mask.len()]);
            object
        }
        Expr::Equal { reg, data } => compare(libc::NFT_CMP_EQ, *reg, data),
        Expr::Differ { reg, data } => compare(libc::NFT_CMP_NEQ, *reg, data),
        Expr::Lookup { set, reg, value } => {
            let object = new(c"lookup");
            string(object, sys::NFTNL_EXPR_LOOKUP_SET, set.name());
            number(object, sys::NFTNL_EXPR_LOOKUP_SREG, register(*reg));
            // Zero by default; said by us, the rule reads back as it was.
            number(object, sys::NFTNL_EXPR_LOOKUP_FLAGS, 0);
            if let Some(value) = value {
                number(object, sys::NFTNL_EXPR_LOOKUP_DREG, register(*value));
            }
            object
        }
        Expr::Missing { set, reg } => {
            let object = new(c"lookup");
            string(object, sys::NFTNL_EXPR_LOOKUP_SET, set.name());
            number(object, sys::NFTNL_EXPR_LOOKUP_SREG, register(*reg));
            number(object, sys::NFTNL_EXPR_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32);
            object
        }
        Expr::Number { reg, value } => {
            let object = new(c"immediate");
            number(object, sys::NFTNL_EXPR_IMM_DREG, register(*reg));
            data(object, sys::NFTNL_EXPR_IMM_DATA, &value.to_ne_bytes());
            object
        }
        Expr::CountOver { set, reg, limit } => {
            let object = new(c"dynset");
            string(object, sys::NFTNL_EXPR_DYNSET_SET_NAME, set.name());
            number(object, sys::NFTNL_EXPR_DYNSET_SREG_KEY, register(*reg));
            number(object, sys::NFTNL_EXPR_DYNSET_OP, libc::NFT_DYNSET_OP_ADD as u32);
            // SAFETY: `object` is a live expression, which takes the counting one over.
            unsafe { sys::nftnl_expr_add_expr(object, sys::NFTNL_EXPR_DYNSET_EXPR, count_over(*limit)) };
            object
        }
        Expr::Rate { per_second } => {
            let object = new(c"limit");
            let long = |attribute: u32, value: u64| {
                // SAFETY: `object` is a live expression; a plain store.
                unsafe { sys::nftnl_expr_set_u64(object, attribute as u16, value) };
            };
            long(sys::NFTNL_EXPR_LIMIT_RATE, u64::from(*per_second));
            long(sys::NFTNL_EXPR_LIMIT_UNIT, 1);
            number(object, sys::NFTNL_EXPR_LIMIT_BURST, *per_second);
            number(object, sys::NFTNL_EXPR_LIMIT_TYPE, libc::NFT_LIMIT_PKTS as u32);
            number(object, sys::NFTNL_EXPR_LIMIT_FLAGS, 0);
            object
        }
        Expr::Copy { group } => {
            /// The longest headers that IP and TCP can have; nothing of the bytes that they carry.
            const HEADERS: u32 = 60 + 60;
            let object = new(c"log");
            number(object, sys::NFTNL_EXPR_LOG_SNAPLEN, HEADERS);
            // SAFETY: `object` is a live expression; plain stores. Each packet is handed over at once.
            unsafe {
                sys::nftnl_expr_set_u16(object, sys::NFTNL_EXPR_LOG_GROUP as u16, *group);
                sys::nftnl_expr_set_u16(object, sys::NFTNL_EXPR_LOG_QTHRESHOLD as u16, 1);
            }
            object
        }
        Expr::CopyWhole { group } => {
            let object = new(c"log");
            // SAFETY: `object` is a live expression; plain stores. Each packet is handed over at once.
            unsafe {
                sys::nftnl_expr_set_u16(object, sys::NFTNL_EXPR_LOG_GROUP as u16, *group);
                sys::nftnl_expr_set_u16(object, sys::NFTNL_EXPR_LOG_QTHRESHOLD as u16, 1);
            }
            object
        }
        Expr::Untracked => new(c"notrack"),
        Expr::Random { modulus, reg } => {
            let object = new(c"numgen");
            number(object, sys::NFTNL_EXPR_NG_DREG, register(*reg));
            number(object, sys::NFTNL_EXPR_NG_MODULUS, *modulus);
            number(object, sys::NFTNL_EXPR_NG_TYPE, libc::NFT_NG_RANDOM as u32);
            number(object, sys::NFTNL_EXPR_NG_OFFSET, 0);
            object
        }
        Expr::Dnat { family, address, port } => {
            // The kernel would fill in the ends of the ranges and the flags; said by us, a rule reads back as it was.
            const MAP_IPS_AND_PROTO_SPECIFIED: u32 = 1 | 2;
            let nfproto = if *family == Family::V4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
            let object = new(c"nat");
            number(object, sys::NFTNL_EXPR_NAT_TYPE, libc::NFT_NAT_DNAT as u32);
            number(object, sys::NFTNL_EXPR_NAT_FAMILY, nfproto as u32);
            number(object, sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, register(*address));
            number(object, sys::NFTNL_EXPR_NAT_REG_ADDR_MAX, register(*address));
            number(object, sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, register(*port));
            number(object, sys::NFTNL_EXPR_NAT_REG_PROTO_MAX, register(*port));
            number(object, sys::NFTNL_EXPR_NAT_FLAGS, MAP_IPS_AND_PROTO_SPECIFIED);
            object
        }
        Expr::Snat { family, address } => {
            const MAP_IPS: u32 = 1;
            let nfproto = if *family == Family::V4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
            let object = new(c"nat");
            number(object, sys::NFTNL_EXPR_NAT_TYPE, libc::NFT_NAT_SNAT as u32);
            number(object, sys::NFTNL_EXPR_NAT_FAMILY, nfproto as u32);
            number(object, sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, register(*address));
            number(object, sys::NFTNL_EXPR_NAT_REG_ADDR_MAX, register(*address));
            number(object, sys::NFTNL_EXPR_NAT_FLAGS, MAP_IPS | PROTO_RANDOM_FULLY);
            object
        }
        Expr::Masquerade => {
            let object = new(c"masq");
            number(object, sys::NFTNL_EXPR_MASQ_FLAGS, PROTO_RANDOM_FULLY);
            object
        }
        Expr::Reset => {
            let object = new(c"reject");
            number(object, sys::NFTNL_EXPR_REJECT_TYPE, libc::NFT_REJECT_TCP_RST as u32);
            // SAFETY: `object` is a live expression; a plain store.
            unsafe { sys::nftnl_expr_set_u8(object, sys::NFTNL_EXPR_REJECT_CODE as u16, 0) };
            object
        }
        Expr::Counter => new(c"counter"),
        Expr::Accept => verdict(libc::NF_ACCEPT, None),
        Expr::Drop => verdict(libc::NF_DROP, None),
        Expr::Return => verdict(libc::NFT_RETURN, None),
        Expr::Jump(chain) => verdict(libc::NFT_JUMP, Some(chain)),
        Expr::Goto(chain) => verdict(libc::NFT_GOTO, Some(chain)),
    }
}

/// Matches when the key that it is attached to has more connections than `limit`.
pub fn count_over(limit: u32) -> *mut sys::nftnl_expr {
    // linux/netfilter/nf_tables.h: NFT_CONNLIMIT_F_INV
    const FLAG_INV: u32 = 1 << 0;
    let object = new(c"connlimit");
    number(object, sys::NFTNL_EXPR_CONNLIMIT_COUNT, limit);
    number(object, sys::NFTNL_EXPR_CONNLIMIT_FLAGS, FLAG_INV);
    object
}

pub fn counter() -> *mut sys::nftnl_expr {
    new(c"counter")
}

fn new(name: &CStr) -> *mut sys::nftnl_expr {
    // SAFETY: libnftnl looks the name up among its own and copies nothing.
    let object = unsafe { sys::nftnl_expr_alloc(name.as_ptr()) };
    // Every libnftnl from 1.2 on knows all names that we use, so null can only mean that memory is out.
    if object.is_null() { handle_alloc_error(Layout::new::<usize>()) } else { object }
}

fn number(object: *mut sys::nftnl_expr, attribute: u32, value: u32) {
    // SAFETY: `object` is a live expression of this module's; a plain store.
    unsafe { sys::nftnl_expr_set_u32(object, attribute as u16, value) };
}
