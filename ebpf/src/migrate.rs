//! Maps of an older layout are converted, not reset: connections go on, and what was fenced stays fenced.
//!
//! New maps are made beside the old ones and filled, then the programs in the links are exchanged, with no packet in between
//! without one. Each step can be the last of an agent that dies; the next one finds out by two things which was:
//!
//! | `maps/` | `beside/` | the agent died | so the next one |
//! | --- | --- | --- | --- |
//! | old | nothing, or whatever | before anything counted | begins anew |
//! | new, `copied` is [`BEGUN`] | old | before any link had new programs | copies what changes once more, and goes on |
//! | new, `copied` is a moment | old | later | goes on; nothing is copied over what new programs have written |
//! | new, `copied` is 0 | nothing, or old | at the end | unpins the old ones |
//!
//! The two folders change places in one call (RENAME_EXCHANGE). From before the flows are copied until all links have the new
//! programs, SYNs are held: a flow that one side's programs opened would be nothing to the other's. They are played again
//! afterwards. That takes as long as the copying, about a second for a million flows; established flows do not wait.

pub mod abi2;
mod copy;

use std::fs;
use std::io::{self, ErrorKind};

use aya::maps::MapData;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use shunt_ebpf_common::ABI;
use shunt_ebpf_common::control::{BEGUN, Control};

use crate::{Error, Object, Pins, Size, clock, grace, sys};
use copy::{Former, New};

/// How far it has come. Tests stop there, as an agent does that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// New maps are beside the old ones, with all but flows.
    Made,
    /// They have changed places.
    Placed,
    /// Flows and what goes with them are copied.
    Copied,
    /// All links have new programs.
    Linked,
    /// New connections are let in.
    LetIn,
    Done,
}

/// Converts what is pinned if that is older, and loads the programs onto it. `None`: it went as far as it was to go.
pub(crate) fn load_until(pins: Pins, size: Size, last: Step) -> Result<Option<Object>, Error> {
    let beside = pins.beside();
    if found(&pins)? == Some(abi2::ABI) {
        let made = make(&pins, &beside);
        if let Err(error) = made {
            let _ = fs::remove_dir_all(beside.path());
            return Err(error);
        }
        if last == Step::Made {
            return Ok(None);
        }
        change_places(&pins, &beside)?;
    } else {
        refuse_unknown(&pins)?;
    }
    if last == Step::Placed {
        return Ok(None);
    }
    let is_older = Pins::hold_maps(beside.path()) && found(&beside)? == Some(abi2::ABI);
    let former = if is_older { Some(Former::open(&beside)?) } else { None };
    let mut object = Object::onto(pins, size)?;
    if let Some(former) = &former
        && !take_over(&mut object, former, last)?
    {
        return Ok(None);
    }
    if former.is_none() {
        object.exchange_all()?;
    }
    drop(former);
    remove(&beside)?;
    Ok(Some(object))
}

/// From where the folders have changed places. Whether it went to the end.
fn take_over(object: &mut Object, former: &Former, last: Step) -> Result<bool, Error> {
    let mut new = New::open(object.pins())?;
    if new.copied() == BEGUN {
        former.hold(&new)?;
        grace::wait();
        let before = clock::now();
        new.take_flows(former)?;
        if last == Step::Copied {
            return Ok(false);
        }
        new.set_copied(before);
    }
    object.exchange_all()?;
    if last == Step::Linked {
        return Ok(false);
    }
    // No old program runs any more.
    grace::wait();
    if new.copied() != 0 {
        new.let_in();
        if last == Step::LetIn {
            return Ok(false);
        }
        new.catch_up(former, object)?;
        new.play(former, object)?;
        new.set_copied(0);
    }
    tracing::info!(from = abi2::ABI, to = ABI, "converted the maps of an older version");
    Ok(true)
}

/// New maps, as large as the old ones, and filled with what only an agent changes.
fn make(pins: &Pins, beside: &Pins) -> Result<(), Error> {
    remove(beside)?;
    let former = Former::open(pins)?;
    let beside = Pins::at(beside.path())?;
    Object::maps_at(&beside, former.size()?)?;
    New::open(&beside)?.take_all_but_flows(&former)
}

fn change_places(pins: &Pins, beside: &Pins) -> Result<(), Error> {
    let (ours, theirs) = (pins.maps(), beside.maps());
    let what = || format!("let {} and {} change places", ours.display(), theirs.display());
    renameat2(AT_FDCWD, &ours, AT_FDCWD, &theirs, RenameFlags::RENAME_EXCHANGE)
        .map_err(|error| Error::kernel(what(), error))
}

fn remove(beside: &Pins) -> Result<(), Error> {
    match fs::remove_dir_all(beside.path()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::kernel(format!("remove {}", beside.path().display()), error))
        }
        _ => Ok(()),
    }
}

/// Maps of a layout that is not known are not touched: what is written there by other rules would be read as flows.
fn refuse_unknown(pins: &Pins) -> Result<(), Error> {
    match found(pins)? {
        // 0: made, and its maker died before it wrote anything.
        None | Some(ABI | 0) => Ok(()),
        Some(found) => Err(Error::Abi { path: pins.path().to_path_buf(), found, ours: ABI }),
    }
}

/// The version of what is pinned there. Of a record of any size: only its first word is promised to be there.
fn found(pins: &Pins) -> Result<Option<u32>, Error> {
    let path = pins.map("CONTROL");
    if !path.exists() {
        return Ok(None);
    }
    let what = format!("read {}", path.display());
    let data = MapData::from_pin(&path).map_err(|error| Error::map(&what, error))?;
    let size = data.info().map_err(|error| Error::map(&what, error))?.value_size() as usize;
    let first = sys::first_word(data.fd(), size).map_err(|error| Error::kernel(&what, error))?;
    if first == ABI && size != size_of::<Control>() {
        let other = io::Error::other(format!("it says ABI version {ABI}, and has {size} bytes"));
        return Err(Error::kernel(what, other));
    }
    Ok(Some(first))
}
