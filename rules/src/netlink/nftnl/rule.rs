//! Rules, built from our own form and read back in libnftnl's words.

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use nftnl_sys as sys;

use super::{Rule, bytes, c_string, expr, string};
use crate::{ruleset, schema};

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

    pub fn family(&self) -> u32 {
        // SAFETY: a plain load from the object.
        unsafe { sys::nftnl_rule_get_u32(self.raw(), sys::NFTNL_RULE_FAMILY as u16) }
    }

    pub fn chain(&self) -> String {
        // SAFETY: as above.
        unsafe { string(sys::nftnl_rule_get_str(self.raw(), sys::NFTNL_RULE_CHAIN as u16)) }
    }

    /// The rule in libnftnl's words, one expression per line, without the counts of its counters. Two rules with the
    /// same text do the same.
    pub fn text(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.expressions(|expr| {
            let mut line = expr.name();
            if line != "counter" {
                line.push(' ');
                // The kernel tells of a set's updates that they have no timeout, and refuses to be told so.
                line.push_str(&expr.text().replace(" timeout 0ms", ""));
            }
            lines.push(line);
        });
        lines
    }

    /// Calls `each` with every expression of the rule.
    pub fn expressions(&self, mut each: impl FnMut(Expression<'_>)) {
        // SAFETY: the iterator is used only while the rule lives and is destroyed below; expressions stay the rule's.
        unsafe {
            let iter = sys::nftnl_expr_iter_create(self.raw());
            if iter.is_null() {
                handle_alloc_error(Layout::new::<usize>())
            }
            while let Some(raw) = NonNull::new(sys::nftnl_expr_iter_next(iter)) {
                each(Expression { raw, rule: PhantomData });
            }
            sys::nftnl_expr_iter_destroy(iter);
        }
    }
}

/// An expression of a rule, which owns it.
#[derive(Clone, Copy)]
pub struct Expression<'r> {
    raw: NonNull<sys::nftnl_expr>,
    rule: PhantomData<&'r Rule>,
}

impl<'r> Expression<'r> {
    pub fn name(self) -> String {
        // SAFETY: the rule, and with it the expression, is alive; the string is copied at once.
        unsafe { string(sys::nftnl_expr_get_str(self.raw.as_ptr(), sys::NFTNL_EXPR_NAME as u16)) }
    }

    /// An attribute, if it is set.
    pub fn data(self, attribute: u32) -> Option<&'r [u8]> {
        let mut len = 0;
        // SAFETY: the rule, and with it the expression and its attributes, is alive for as long as the result is used.
        unsafe {
            if !sys::nftnl_expr_is_set(self.raw.as_ptr(), attribute as u16) {
                return None;
            }
            bytes(sys::nftnl_expr_get(self.raw.as_ptr(), attribute as u16, &raw mut len), len)
        }
    }

    /// What it does, in libnftnl's words.
    fn text(self) -> String {
        let mut buffer = vec![0u8; 1024];
        let (text, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the rule is alive; libnftnl writes at most `size` bytes and returns how many it would have written.
        let len = unsafe { sys::nftnl_expr_snprintf(text, size, self.raw.as_ptr(), 0, 0) };
        buffer.truncate(usize::try_from(len).unwrap_or(0));
        String::from_utf8_lossy(&buffer).trim().to_owned()
    }
}
