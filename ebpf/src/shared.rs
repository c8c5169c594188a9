//! An array map as memory that this process and the programs share (BPF_F_MMAPABLE): writing to it is a store, not a
//! system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::Pod;
use shunt_ebpf_common::mapping::Versioned;

/// The elements of an array map. This process is the only one that writes.
pub struct Shared<T> {
    start: NonNull<T>,
    bytes: usize,
    len: u32,
    _values: PhantomData<T>,
}

// SAFETY: a mapping belongs to the process, not to a thread; access goes by `&mut` where it writes.
unsafe impl<T: Pod> Send for Shared<T> {}
// SAFETY: by `&` it is only read, by volatile copies of what others write at any time.
unsafe impl<T: Pod> Sync for Shared<T> {}

impl<T: Pod> Shared<T> {
    /// Maps all `len` elements of the array.
    pub fn map(array: impl AsFd, len: u32) -> io::Result<Self> {
        // The kernel pads elements to eight bytes.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = size_of::<T>() * len as usize;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that was just lent to us.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, bytes, len, _values: PhantomData })
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// A copy of an element.
    pub fn get(&self, at: u32) -> T {
        // SAFETY: place() is within the mapping, and every pattern of bits is a `T`. Programs read at most.
        unsafe { self.place(at).read_volatile() }
    }

    /// A copy of one field.
    pub fn get_field<F: Pod>(&self, at: u32, field: impl FnOnce(*mut T) -> *mut F) -> F {
        // SAFETY: a field of an element, see above.
        unsafe { field(self.place(at)).read_volatile() }
    }

    /// Writes an element that no packet looks at.
    pub fn put(&mut self, at: u32, value: T) {
        // SAFETY: as above.
        unsafe { self.place(at).write_volatile(value) }
    }

    /// Changes one field.
    pub fn put_field<F: Copy>(&mut self, at: u32, field: impl FnOnce(*mut T) -> *mut F, value: F) {
        let place = field(self.place(at));
        // Everything that was written before is seen before it.
        fence(Ordering::SeqCst);
        // SAFETY: a field of an element, see above.
        unsafe { place.write_volatile(value) };
        fence(Ordering::SeqCst);
    }

    /// Takes so many away from a number that programs change meanwhile, down to zero.
    pub fn subtract(&mut self, at: u32, field: impl FnOnce(*mut T) -> *mut u64, number: u64) {
        // SAFETY: a field of an element, see above, which programs change atomically; maps and their elements are aligned
        // to eight bytes.
        let word = unsafe { AtomicU64::from_ptr(field(self.place(at))) };
        let less = |before: u64| Some(before.saturating_sub(number));
        // It always says Some.
        let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// Writes into a record what is to count from transaction `committed + 1` on; see `shunt_ebpf_common::mapping`.
    pub fn stage<V: Copy>(&mut self, at: u32, record: impl Fn(*mut T) -> *mut Versioned<V>, committed: u64, value: V) {
        let next = committed + 1;
        let record = record(self.place(at));
        // SAFETY: within an element, see above; each step is ordered after the one before.
        unsafe {
            if (&raw const (*record).transaction).read_volatile() != next {
                let current = (&raw const (*record).new).read_volatile();
                (&raw mut (*record).old).write_volatile(current);
                fence(Ordering::SeqCst);
                (&raw mut (*record).transaction).write_volatile(next);
                fence(Ordering::SeqCst);
            }
            (&raw mut (*record).new).write_volatile(value);
        }
    }

    /// Undoes what was staged and never committed.
    pub fn unstage<V: Copy>(&mut self, at: u32, record: impl Fn(*mut T) -> *mut Versioned<V>, committed: u64) {
        let record = record(self.place(at));
        // SAFETY: within an element, see above. Readers take `old` until `transaction` says otherwise.
        unsafe {
            if (&raw const (*record).transaction).read_volatile() > committed {
                let current = (&raw const (*record).old).read_volatile();
                (&raw mut (*record).new).write_volatile(current);
                fence(Ordering::SeqCst);
                (&raw mut (*record).transaction).write_volatile(committed);
            }
        }
    }

    fn place(&self, at: u32) -> *mut T {
        assert!(at < self.len, "element {at} of {}", self.len);
        // SAFETY: within the mapping, as just asserted.
        unsafe { self.start.as_ptr().add(at as usize) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with that size; nothing of it has been lent out.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
