//! bpf(2) where aya has no safe word for it: hash maps by a shared descriptor, and in batches.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;

/// linux/bpf.h, `enum bpf_cmd`.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The key must be there.
const BPF_EXIST: u64 = 2;

/// linux/bpf.h, `enum bpf_link_type`.
const BPF_LINK_TYPE_TCX: u32 = 11;

/// `union bpf_attr`, of an element.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr`, of a program that is run, up to what is asked for here.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// `union bpf_attr`, of something that is pinned.
#[repr(C)]
#[derive(Default)]
struct Pinned {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// `union bpf_attr`, of a link.
#[repr(C)]
struct Link {
    link: u32,
}

/// `union bpf_attr`, of a question about something that is open.
#[repr(C)]
struct Question {
    descriptor: u32,
    length: u32,
    answer: u64,
}

/// `struct bpf_link_info`, of a link by TCX.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    number: u32,
    program: u32,
    padding: u32,
    interface: u32,
    place: u32,
}

/// `union bpf_attr`, of a batch.
#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Where a walk through a hash map goes on: the number of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// One step of a walk: as many elements as there was room for, and where it goes on; `None`: this was the end.
pub struct Step {
    pub elements: usize,
    pub next: Option<Place>,
}

/// The value of a key, if it is there.
pub fn get<K: Pod, V: Pod>(map: impl AsFd, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    match call(BPF_MAP_LOOKUP_ELEM, &mut element(map, key, value.as_mut_ptr() as u64, 0)) {
        // SAFETY: the kernel has filled in all of it: values have the map's size, as whoever typed the map has seen to.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A value to be overwritten.
pub fn zeros<T: Pod>() -> T {
    // SAFETY: every pattern of bits is a value.
    unsafe { std::mem::zeroed() }
}

/// The first word of an array's first element, which has `size` bytes.
pub fn first_word(map: impl AsFd, size: usize) -> io::Result<u32> {
    // The kernel writes whole words.
    let mut value = vec![0_u64; size.div_ceil(8)];
    call(BPF_MAP_LOOKUP_ELEM, &mut element(map, &0_u32, value.as_mut_ptr() as u64, 0))?;
    let bytes = value.first().copied().unwrap_or_default().to_ne_bytes();
    Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Puts another value into the place of the one that the key has. Whether there was one.
pub fn replace<K: Pod, V: Pod>(map: impl AsFd, key: &K, value: &V) -> io::Result<bool> {
    found(call(BPF_MAP_UPDATE_ELEM, &mut element(map, key, (&raw const *value) as u64, BPF_EXIST)))
}

/// Takes a key out, if it is there.
pub fn remove<K: Pod>(map: impl AsFd, key: &K) -> io::Result<()> {
    found(call(BPF_MAP_DELETE_ELEM, &mut element(map, key, 0, 0))).map(drop)
}

/// Enters all of these, or replaces what is there.
pub fn put_all<K: Pod, V: Pod>(map: impl AsFd, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "keys and values come in pairs");
    if keys.is_empty() {
        return Ok(());
    }
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_fd().as_raw_fd() as u32,
        ..Batch::default()
    };
    call(BPF_MAP_UPDATE_BATCH, &mut batch).map(drop)
}

/// Runs a program once on a packet; what it returns.
pub fn run(program: impl AsFd, packet: &[u8]) -> io::Result<u32> {
    let mut run = Run {
        program: program.as_fd().as_raw_fd() as u32,
        size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        ..Run::default()
    };
    call(BPF_PROG_TEST_RUN, &mut run)?;
    Ok(run.returned)
}

/// Reads on in a hash map. Both slices are of one length, which must be that of the fullest bucket at least: otherwise
/// ENOSPC.
pub fn step<K: Pod, V: Pod>(map: impl AsFd, from: Option<Place>, keys: &mut [K], values: &mut [V]) -> io::Result<Step> {
    assert_eq!(keys.len(), values.len(), "keys and values come in pairs");
    let mut to = 0_u32;
    let mut batch = Batch {
        from: from.as_ref().map_or(0, |place| (&raw const place.0) as u64),
        to: (&raw mut to) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_fd().as_raw_fd() as u32,
        ..Batch::default()
    };
    let next = match call(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => Some(Place(to)),
        // The end; what was read up to there counts.
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(Step { elements: batch.count as usize, next })
}

/// Detaches the link that is pinned there, from now on and for whoever holds it.
pub fn detach(path: &Path) -> io::Result<()> {
    let link = pinned(path)?;
    call(BPF_LINK_DETACH, &mut Link { link: link.as_raw_fd() as u32 }).map(drop)
}

/// What a link binds together.
pub struct Linked {
    /// The interface that the program runs on; 0: on none any more.
    pub interface: u32,
    /// The program's number.
    pub program: u32,
}

/// What the link that is pinned there binds together.
pub fn linked(path: &Path) -> io::Result<Linked> {
    let link = pinned(path)?;
    let mut info = LinkInfo::default();
    let length = size_of::<LinkInfo>() as u32;
    let descriptor = link.as_raw_fd() as u32;
    call(BPF_OBJ_GET_INFO_BY_FD, &mut Question { descriptor, length, answer: (&raw mut info) as u64 })?;
    let linked = Linked { interface: info.interface, program: info.program };
    if info.kind == BPF_LINK_TYPE_TCX { Ok(linked) } else { Err(io::Error::other("it is no link by TCX")) }
}

/// What is pinned there.
fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = call(BPF_OBJ_GET, &mut Pinned { path: path.as_ptr() as u64, ..Pinned::default() })?;
    // SAFETY: the kernel has just made it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn element<K: Pod>(map: impl AsFd, key: &K, value: u64, flags: u64) -> Element {
    Element { map: map.as_fd().as_raw_fd() as u32, zero: 0, key: (&raw const *key) as u64, value, flags }
}

fn found(called: io::Result<libc::c_int>) -> io::Result<bool> {
    match called {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

fn call<A>(command: libc::c_long, attributes: &mut A) -> io::Result<libc::c_int> {
    loop {
        // SAFETY: the attributes are those of the command, and what they point to outlives the call: every caller in this
        // file has it on its stack or was lent it, in the sizes of a map that was typed so.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
        if done >= 0 {
            return Ok(done as libc::c_int);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
