//! The programs: loaded once, attached to interfaces, and exchanged for newer ones without a packet in between.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use crate::migrate::{self, Step};
use crate::orders::{MANAGE, REPLAY};
use crate::tables::{self, MAPS, Tables};
use crate::{Error, Listener, Pins, sys};

/// Built by build.rs.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs"));

const INGRESS: &str = "shunt_ingress";

/// How much the maps hold. Adopted maps keep the size that they were made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub flows: u32,
    pub mappings: u32,
    pub pairs: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self { flows: 1_000_000, mappings: 16_384, pairs: 32_768 }
    }
}

/// Loads the programs and lets them go again, attached to nothing: does this kernel take them? The number of instructions
/// that its verifier looked at, of a million that it would.
pub fn try_out() -> Result<u32, Error> {
    // `bpf_fib_lookup` chooses a source address from Linux 6.7 on, and loading would not tell.
    let oldest = KernelVersion::new(6, 7, 0);
    if KernelVersion::current().is_ok_and(|current| current < oldest) {
        return Err(Error::OldKernel { oldest: "6.7" });
    }
    let mut loader = EbpfLoader::new();
    let mut ebpf = loader.load(PROGRAMS).map_err(|error| Error::Load(Box::new(error)))?;
    let program = ingress(&mut ebpf)?;
    let failed = |error| Error::program(format!("load {INGRESS}"), error);
    program.load().map_err(failed)?;
    Ok(program.info().map_err(failed)?.verified_instruction_count().unwrap_or_default())
}

fn ingress(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Error> {
    named(ebpf, INGRESS)
}

fn named<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|error| Error::program(format!("take {name} for a tc program"), error))
}

/// The loaded programs. Dropping it detaches nothing: what is pinned stays.
pub struct Object {
    ebpf: Ebpf,
    pins: Pins,
}

impl Object {
    /// Loads the programs onto the maps that are pinned there, or onto new ones, and lets every interface that has a link
    /// run them from now on. Maps of an older version are converted, those of an unknown one refused.
    pub fn load(pins: Pins, size: Size) -> Result<Self, Error> {
        migrate::load_until(pins, size, Step::Done)?.ok_or(Error::Missing("maps"))
    }

    /// Converts what is pinned there as far as that step and lets go, as an agent does that dies.
    pub fn migrate_until(pins: Pins, size: Size, last: Step) -> Result<(), Error> {
        migrate::load_until(pins, size, last).map(drop)
    }

    /// Makes the maps that are not pinned there yet.
    pub(crate) fn maps_at(pins: &Pins, size: Size) -> Result<(), Error> {
        Self::parsed(pins, size)?;
        tables::make_beside(pins, size)
    }

    /// Loads the programs; no link has them yet.
    pub(crate) fn onto(pins: Pins, size: Size) -> Result<Self, Error> {
        let ebpf = Self::parsed(&pins, size)?;
        let mut object = Self { ebpf, pins };
        for name in [INGRESS, MANAGE, REPLAY] {
            object.own_program(name)?.load().map_err(|error| Error::program(format!("load {name}"), error))?;
        }
        Ok(object)
    }

    fn parsed(pins: &Pins, size: Size) -> Result<Ebpf, Error> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS", size.flows.saturating_mul(2));
        loader.map_max_entries("LISTENERS", size.mappings);
        loader.map_max_entries("MAPPINGS", size.mappings);
        loader.map_max_entries("PAIRS", size.pairs);
        loader.map_max_entries("TALLIES", size.mappings);
        loader.map_max_entries("SIGNALS", size.pairs);
        for name in MAPS {
            // A map that is pinned there already is taken; otherwise it is made and pinned.
            loader.map_pin_path(name, pins.map(name));
        }
        loader.load(PROGRAMS).map_err(|error| Error::Load(Box::new(error)))
    }

    /// Lets every interface that has a link run these programs.
    pub(crate) fn exchange_all(&mut self) -> Result<(), Error> {
        self.pins.linked()?.into_iter().try_for_each(|interface| self.exchange(interface))
    }

    /// The maps, for reading and changing what they hold. Can be had once.
    pub fn tables(&mut self) -> Result<Tables, Error> {
        Tables::of(&mut self.ebpf, &self.pins)
    }

    /// Puts into words what the programs say, as long as the listener lives. Can be had once.
    pub fn listen(&mut self) -> Result<Listener, Error> {
        Listener::start(&mut self.ebpf)
    }

    /// Attaches to an interface of the calling thread's network namespace, after the programs that are there; nothing,
    /// if that is already so.
    pub fn attach(&mut self, interface: &str) -> Result<(), Error> {
        let what = format!("attach {INGRESS} to {interface}");
        let number = nix::net::if_::if_nametoindex(interface).map_err(|error| Error::kernel(&what, error))?;
        let path = self.pins.link(number);
        match sys::linked(&path) {
            Ok(linked) if linked.interface == number => return Ok(()),
            // Of an interface that had the number before, or has left the namespace meanwhile.
            Ok(_) => self.pins.unlink(number)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::kernel(&what, error)),
        }
        let program = self.program()?;
        // By TCX and by nothing else: a link is what can be pinned, and what ends when it is removed.
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let failed = |error| Error::program(&what, error);
        let id = program.attach_with_options(interface, TcAttachType::Ingress, options).map_err(failed)?;
        let link: FdLink = program
            .take_link(id)
            .map_err(failed)?
            .try_into()
            .map_err(|error: aya::programs::links::LinkError| Error::kernel(&what, io::Error::other(error)))?;
        link.pin(&path).map(drop).map_err(|error| Error::kernel(&what, io::Error::other(error)))
    }

    /// Whether it is these programs that the interface runs, by the link that is pinned for it. Asking the interface itself
    /// would take CAP_SYS_ADMIN: it answers with numbers of programs, which nobody else may look up.
    pub fn is_attached(&mut self, interface: &str) -> Result<bool, Error> {
        let what = format!("ask what is attached to {interface}");
        let number = nix::net::if_::if_nametoindex(interface).map_err(|error| Error::kernel(&what, error))?;
        let ours = self.program()?.info().map_err(|error| Error::program(&what, error))?.id();
        match sys::linked(&self.pins.link(number)) {
            Ok(linked) => Ok((linked.interface, linked.program) == (number, ours)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::kernel(&what, error)),
        }
    }

    /// Attaches to the interface anew, whatever is pinned for it.
    pub fn attach_again(&mut self, interface: &str) -> Result<(), Error> {
        let what = || format!("unpin the link of {interface}");
        let number = nix::net::if_::if_nametoindex(interface).map_err(|error| Error::kernel(what(), error))?;
        self.pins.unlink(number)?;
        self.attach(interface)
    }

    /// Lets go of the links of interfaces that are no more.
    pub fn forget_gone(&self) -> Result<(), Error> {
        let there = nix::net::if_::if_nameindex().map_err(|error| Error::kernel("list the interfaces", error))?;
        let there: BTreeSet<u32> = there.iter().map(nix::net::if_::Interface::index).collect();
        let gone = self.pins.linked()?.into_iter().filter(|number| !there.contains(number));
        gone.into_iter().try_for_each(|number| self.pins.unlink(number))
    }

    /// The folder of what is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The program, to be tried on packets.
    pub fn program(&mut self) -> Result<&mut SchedClassifier, Error> {
        ingress(&mut self.ebpf)
    }

    pub(crate) fn own_program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, Error> {
        named(&mut self.ebpf, name)
    }

    /// Puts the new program in the place of the one that a link has.
    fn exchange(&mut self, interface: u32) -> Result<(), Error> {
        let path = self.pins.link(interface);
        let what = format!("exchange the program of {}", path.display());
        let broken = |error| Error::kernel(&what, io::Error::other(error));
        let link: FdLink = PinnedLink::from_pin(&path).map_err(broken)?.into();
        let link = SchedClassifierLink::try_from(link).map_err(broken)?;
        let program = self.program()?;
        match program.attach_to_link(link) {
            Ok(id) => {
                // Taken back, or it would be closed with the program; pinned it is already.
                program.take_link(id).map(drop).map_err(|error| Error::program(&what, error))
            }
            Err(error) if is_gone(&error) => fs::remove_file(&path).map_err(|error| Error::kernel(&what, error)),
            Err(error) => Err(Error::program(&what, error)),
        }
    }
}

/// The interface is gone, and its link an empty shell.
fn is_gone(error: &aya::programs::ProgramError) -> bool {
    use aya::programs::ProgramError;
    let ProgramError::SyscallError(call) = error else { return false };
    matches!(call.io_error.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV))
}
