//! A transaction in the making: messages between a begin and an end, all sent in one piece.
//!
//! Only the last message asks for an acknowledgement. The kernel sends it after it has committed, so the time from
//! sending to that answer is the time of the whole transaction.

use std::fmt;

use nftnl_sys as sys;

use super::nf_tables;
use crate::element::Key;
use crate::schema::SetId;
use crate::tlv;

/// What a message is about, for whoever must be told that it was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Table,
    Set(SetId),
    Chain(String),
    Rule {
        chain: String,
        comment: String,
    },
    /// In the order in which they stand in the message.
    Elements(Vec<Key>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("it"),
            Self::Set(set) => write!(f, "{} {}", set.noun(), set.name()),
            Self::Chain(chain) => write!(f, "chain {chain}"),
            Self::Rule { chain, comment } => write!(f, "rule \"{comment}\" of chain {chain}"),
            Self::Elements(keys) => match &keys[..] {
                [key] => key.fmt(f),
                [key, rest @ ..] => write!(f, "{key} or one of the {} after it", rest.len()),
                [] => f.write_str("no element"),
            },
        }
    }
}

pub struct Batch {
    bytes: Vec<u8>,
    first: u32,
    subjects: Vec<Subject>,
    /// Where each message begins in `bytes`.
    starts: Vec<usize>,
    scratch: Vec<u32>,
}

impl Batch {
    /// `seq`: sequence number of the begin message; those of the others follow on.
    pub fn new(seq: u32) -> Self {
        // SAFETY: a function without arguments that reads the page size.
        let largest = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize + usize::from(u16::MAX);
        let mut batch = Self {
            bytes: Vec::new(),
            first: seq.wrapping_add(1),
            subjects: Vec::new(),
            starts: Vec::new(),
            scratch: vec![0; largest.div_ceil(4)],
        };
        // SAFETY: `write` passes a buffer with room for the largest message.
        batch.write(|buffer| unsafe { sys::nftnl_batch_begin(buffer, seq) });
        batch
    }

    /// Adds a message of the type `message` (`NFT_MSG_*`) whose payload `fill` builds with libnftnl.
    ///
    /// # Safety
    /// `fill` may only append to the message that it is given what fits into the largest nf_tables message, 64 KiB.
    pub unsafe fn message(
        &mut self,
        message: i32,
        flags: i32,
        subject: Subject,
        fill: impl FnOnce(*mut libc::nlmsghdr),
    ) {
        let seq = self.first.wrapping_add(self.subjects.len() as u32);
        self.starts.push(self.bytes.len());
        self.subjects.push(subject);
        self.write(|buffer| {
            // SAFETY: `buffer` has room for the largest message, and the caller's `fill` keeps to that.
            let header = unsafe {
                sys::nftnl_nlmsg_build_hdr(
                    buffer,
                    nf_tables(message) & 0xff,
                    libc::NFPROTO_INET as u16,
                    flags as u16,
                    seq,
                )
            };
            fill(header);
            header
        });
    }

    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Asks for the acknowledgement and ends the batch.
    pub fn finish(mut self) -> Self {
        if let Some(last) = self.starts.last() {
            let flags = &mut self.bytes[last + 6..last + 8];
            let with_ack = u16::from_ne_bytes([flags[0], flags[1]]) | libc::NLM_F_ACK as u16;
            flags.copy_from_slice(&with_ack.to_ne_bytes());
        }
        let seq = self.first.wrapping_add(self.subjects.len() as u32);
        // SAFETY: `write` passes a buffer with room for the largest message.
        self.write(|buffer| unsafe { sys::nftnl_batch_end(buffer, seq) });
        self
    }

    /// How many sequence numbers the batch uses up.
    pub fn span(&self) -> u32 {
        self.subjects.len() as u32 + 2
    }

    /// Is this sequence number one of the batch's, begin and end included? A failed commit is answered at the begin.
    pub fn spans(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.first.wrapping_sub(1)) < self.span()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn index_of(&self, seq: u32) -> Option<usize> {
        let index = seq.wrapping_sub(self.first) as usize;
        (index < self.subjects.len()).then_some(index)
    }

    pub fn last(&self) -> Option<usize> {
        self.subjects.len().checked_sub(1)
    }

    /// What a message is about; of many elements the one at `offset` in the message.
    pub fn subject(&self, index: usize, offset: Option<usize>) -> Option<Subject> {
        let subject = self.subjects.get(index)?;
        if let (Subject::Elements(keys), Some(offset)) = (subject, offset)
            && let Some(key) = self.element_at(index, offset).and_then(|element| keys.get(element))
        {
            return Some(Subject::Elements(vec![*key]));
        }
        Some(subject.clone())
    }

    /// Which element of a message with elements the byte at `offset` belongs to.
    fn element_at(&self, index: usize, offset: usize) -> Option<usize> {
        const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
        let start = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).copied().unwrap_or(self.bytes.len());
        let attributes = self.bytes.get(start + super::HEADERS..end)?;
        let list = tlv::find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS)?;
        let inside = offset.checked_sub(super::HEADERS + list.offset + 4)?;
        tlv::attributes(list.payload).position(|element| {
            let end = element.offset + 4 + element.payload.len();
            (element.offset..end).contains(&inside)
        })
    }

    fn write(&mut self, build: impl FnOnce(*mut libc::c_char) -> *mut libc::nlmsghdr) {
        let header = build(self.scratch.as_mut_ptr().cast());
        // SAFETY: libnftnl returns the start of the buffer, which holds a header with the length that was written.
        let bytes = unsafe {
            let len = (*header).nlmsg_len as usize;
            std::slice::from_raw_parts(header.cast::<u8>(), len)
        };
        self.bytes.extend_from_slice(bytes);
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}
