//! What the verifier says about the programs when it takes them, kept in `target/verifier`. aya tells its log only when it
//! refuses, so this loads once more by hand, with the object relocated as aya does it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapFd, MapInfo};
use aya::programs::{ProgramInfo, loaded_programs};
use aya_obj::Object;
use aya_obj::generated::{bpf_cmd, bpf_insn, bpf_prog_type};

use crate::lab::on_the_proxy;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs"));

/// Of a million that the kernel would look at: room for what is still to come, and notice when something explodes.
const INSTRUCTIONS: u32 = 200_000;

#[test]
fn the_verifier_takes_the_programs_and_its_logs_are_kept() -> Result<()> {
    on_the_proxy("verifier::the_verifier_takes_the_programs", |mut lab| {
        let folder = std::env::current_exe()?.ancestors().nth(3).context("no target folder")?.join("verifier");
        fs::create_dir_all(&folder)?;
        let held = lab.object.program()?.info()?;
        let maps = maps_of(&held)?;
        let object = relocated(&maps)?;
        let mut names: Vec<&String> = object.programs.keys().collect();
        names.sort_unstable();
        assert_eq!(names, ["shunt_ingress", "shunt_manage", "shunt_replay"]);
        for name in names {
            let function = object.functions.get(&object.programs[name].function_key()).context("no such function")?;
            let (info, log) = log_of(&function.instructions).with_context(|| name.clone())?;
            let instructions = info.verified_instruction_count().context("the kernel tells no instruction count")?;
            let text = format!(
                "{name}: {instructions} instructions looked at, {} bytes translated, {} bytes of machine code\n\n{log}",
                info.size_translated().unwrap_or_default(),
                info.size_jitted()
            );
            fs::write(folder.join(format!("{name}.log")), text)?;
            ensure!(instructions < INSTRUCTIONS, "{name}: {instructions} instructions");
            ensure!(log.contains(&format!("processed {instructions} insns")), "the log is another program's");
            if name == "shunt_ingress" {
                assert_eq!(held.verified_instruction_count(), Some(instructions), "not what aya has loaded");
            }
        }
        Ok(())
    })
}

/// The maps of a program that is loaded.
fn maps_of(program: &ProgramInfo) -> Result<Vec<(MapInfo, MapFd)>> {
    let ids = program.map_ids()?.context("the kernel tells no maps")?;
    ids.into_iter().map(|id| Ok((MapInfo::from_id(id)?, MapInfo::from_id(id)?.fd()?))).collect()
}

/// All programs, with these maps.
fn relocated(held: &[(MapInfo, MapFd)]) -> Result<Object> {
    let mut object = Object::parse(PROGRAMS)?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let maps = object.maps.clone();
    let used = held.iter().filter_map(|(info, fd)| {
        let name = info.name_as_str()?;
        Some((name, fd.as_fd().as_raw_fd(), maps.get(name)?))
    });
    object.relocate_maps(used, &sections)?;
    object.relocate_calls(&sections)?;
    Ok(object)
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    kind: u32,
    number: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// Loads a tc program and lets it go; what the kernel tells of it, and what the verifier said on the way.
fn log_of(instructions: &[bpf_insn]) -> Result<(ProgramInfo, String)> {
    // The last way through each function, and the totals. All ways (2) are fifty megabytes.
    const LEVEL: u32 = 1 | 4;
    let mut log = vec![0_u8; 16 << 20];
    let load = Load {
        kind: bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32,
        number: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: LEVEL,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
    };
    // SAFETY: the structure and what it points to live, with the sizes that it says; the kernel writes to the log only.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_LOAD as u32, &raw const load, size_of::<Load>()) };
    ensure!(fd >= 0, "the kernel refuses it: {}", io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let told = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", program.as_raw_fd()))?;
    let id = told.lines().find_map(|line| line.strip_prefix("prog_id:")).context("no number")?.trim().parse::<u32>()?;
    let mut loaded = loaded_programs().filter_map(Result::ok);
    let info = loaded.find(|info| info.id() == id).context("it is not among the loaded programs")?;
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    log.truncate(end);
    Ok((info, String::from_utf8(log)?))
}
