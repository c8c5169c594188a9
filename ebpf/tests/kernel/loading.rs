//! Loading, pinning, adopting, refusing.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use aya::programs::{SchedClassifier, TcAttachType};
use shunt_ebpf::common::ABI;
use shunt_ebpf::{Error, Object, Pins, Size};
use shunt_tests::eventually;
use shunt_tests::star::PATIENCE;

use crate::lab::{LISTENER, fence, on_the_proxy, open};

#[test]
fn the_version_of_the_layout_can_be_read_back() -> Result<()> {
    on_the_proxy("loading::the_version_of_the_layout", |lab| {
        assert_eq!(lab.tables.abi(), ABI);
        Ok(())
    })
}

#[test]
fn what_is_pinned_is_adopted() -> Result<()> {
    on_the_proxy("loading::what_is_pinned_is_adopted", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial("client", lab.listener())?;
        let committed = lab.tables.committed();
        drop((lab.object, lab.tables));
        call.echo().context("nobody is there, and the flow is to go on")?;
        let (mut object, tables) = open(&lab.folder)?;
        assert_eq!(tables.committed(), committed);
        call.echo().context("the programs were exchanged")?;
        // Attached already.
        object.attach("to1")?;
        assert_eq!(Pins::at(&lab.folder)?.linked()?.len(), 4);
        Ok(())
    })
}

#[test]
fn what_an_agent_had_begun_when_it_died_never_counts() -> Result<()> {
    on_the_proxy("loading::what_an_agent_had_begun", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let mut change = lab.tables.begin();
        change.lead(LISTENER, fence(shunt_ebpf::common::mapping::kind::REFUSES));
        // As if the process had ended here.
        std::mem::forget(change);
        let (_, mut tables) = open(&lab.folder)?;
        tables.begin().commit();
        lab.star.dial("client", lab.listener())?.echo()?;
        Ok(())
    })
}

#[test]
fn another_layout_is_refused_and_left_alone() -> Result<()> {
    on_the_proxy("loading::another_layout_is_refused", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let control = Pins::at(&lab.folder)?.map("CONTROL");
        write_version(&control, ABI + 1)?;
        match open(&lab.folder).map(drop).map_err(anyhow::Error::downcast::<Error>) {
            Err(Ok(Error::Abi { found, ours, .. })) => assert_eq!((found, ours), (ABI + 1, ABI)),
            other => anyhow::bail!("{other:?}"),
        }
        lab.star.dial("client", lab.listener())?.echo()?;
        Ok(())
    })
}

#[test]
fn nothing_is_left_after_a_purge() -> Result<()> {
    on_the_proxy("loading::nothing_is_left_after_a_purge", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        Pins::at(&lab.folder)?.purge()?;
        drop((lab.object, lab.tables));
        assert!(!lab.folder.exists());
        // The kernel takes a link apart when nobody holds it any more, on a thread of its own.
        eventually("the program to be gone from the interface", PATIENCE, || {
            let (_, programs) = SchedClassifier::query_tcx("to1", TcAttachType::Ingress)?;
            Ok(programs.is_empty().then_some(()))
        })
    })
}

#[test]
fn a_million_flows_fit_in_512_megabytes() -> Result<()> {
    on_the_proxy("loading::a_million_flows", |lab| {
        // A tenth of it, of which the buckets are rounded up further than of the whole.
        let folder = lab.folder.with_file_name("large");
        let size = Size { flows: 100_000, mappings: 16_384, pairs: 65_536 };
        let _object = Object::load(Pins::at(&folder)?, size)?;
        let bytes = |name: &str| -> Result<u64> {
            let map = MapData::from_pin(Pins::at(&folder)?.map(name))?;
            let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
            let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
            Ok(line.trim().parse()?)
        };
        let (flows, mappings, pairs) = (bytes("FLOWS")?, bytes("MAPPINGS")?, bytes("PAIRS")?);
        let text = format!("{flows} bytes for 100,000 flows, {mappings} for mappings, {pairs} for pairs");
        ensure!(flows * 10 + mappings + pairs <= 512 * 1024 * 1024, "{text}");
        Ok(())
    })
}

fn write_version(control: &std::path::Path, version: u32) -> Result<()> {
    use aya::maps::{Array, Map};
    use shunt_ebpf::common::control::Control;
    let mut map = Array::<_, Control>::try_from(Map::Array(MapData::from_pin(control)?))?;
    let control = map.get(&0, 0)?;
    Ok(map.set(0, Control { abi: version, ..control }, 0)?)
}
