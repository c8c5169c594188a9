//! What flows cost with few of them in the table, and with as many as it takes.
//!
//! Packets go through the real program by `BPF_PROG_TEST_RUN`, as if the proxy's interface had brought them: it opens flows,
//! chooses ports, asks for the way, rewrites. The kernel says how long each took; nothing is sent. The two tables take turns,
//! so that whatever else the machine does hits both alike.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::thread;

use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use shunt_ebpf::common::control::ports_beside;
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::mapping::{Choice, FOR_EVER, MAX_CHOICES, Way, kind, source};
use shunt_ebpf::{Object, Pins, Size, Tables, endpoint};

use crate::Outcome;
use crate::floor::{self, Interface, Neighbour};

/// Flows that are there before it is measured.
const SIZES: [u32; 2] = [1_000, 1_000_000];

/// Flows that are opened, and of which one has a packet, in each round.
const BATCH: u32 = 50;
const ROUNDS: u32 = 40;

/// Of so many listeners with a backend each: ports of one towards one backend would not do.
const LISTENERS: u32 = 100;
const FIRST_PORT: u16 = 7000;

/// linux/pkt_cls.h: TC_ACT_REDIRECT, TC_ACT_UNSPEC.
const REDIRECT: u32 = 7;
const NEXT: u32 = u32::MAX;

/// `struct __sk_buff`, up to the number of the interface.
const CONTEXT: usize = 44;

struct Table {
    size: u32,
    object: Object,
    tables: Tables,
    opened: u32,
    open_ns: Vec<u64>,
    packet_ns: Vec<u64>,
    /// Of the packet right after, for which the caches have everything.
    again_ns: Vec<u64>,
}

/// Where packets are from and to.
struct Stage {
    here: Ipv4Addr,
    /// Of the interface, to which all frames are addressed: others would be nothing to the program.
    mac: [u8; 6],
    server: Ipv4Addr,
    /// Says that the interface has brought a packet.
    context: [u8; CONTEXT],
}

/// The proxy's neighbours: the one by which clients are, and the servers' host.
pub fn measure(client: Neighbour, server: Neighbour) -> Outcome<()> {
    let here = Interface::find()?;
    let mut context = [0; CONTEXT];
    context[CONTEXT - 4..].copy_from_slice(&here.number.to_ne_bytes());
    let stage = Stage { here: here.address, mac: here.mac, server: server.address, context };
    let processors = thread::available_parallelism()?.get();
    let mut tables = Vec::new();
    for size in SIZES {
        // The first ones fill it up to what is measured.
        let mut table = Table::open(size, &stage)?;
        let before = if size < Size::default().flows { size } else { size - ROUNDS * BATCH };
        while table.opened < before {
            if table.opened.is_multiple_of(1000) {
                take_turns(processors, table.opened / 1000)?;
            }
            table.begin_flow(&stage)?;
        }
        tables.push(table);
    }
    let (mut nothing_ns, mut floor_ns) = (Vec::new(), Vec::new());
    let mut floor = floor::load(&here, &client, &server)?;
    let floor = floor::program(&mut floor)?;
    let foreign =
        frame(&stage, client.address, 40_000, SocketAddr::new(IpAddr::V4(server.address), FIRST_PORT), false)?;
    let fixed = frame(&stage, client.address, 40_000, SocketAddr::new(IpAddr::V4(here.address), FIRST_PORT), false)?;
    let mut noise = Noise(0x5eed);
    for round in 0..ROUNDS {
        take_turns(processors, round)?;
        for table in &mut tables {
            for _ in 0..BATCH {
                let ns = table.begin_flow(&stage)?;
                table.open_ns.push(ns);
            }
            for _ in 0..BATCH {
                let flow = noise.below(table.opened);
                let [ns, again] = [table.go_on(&stage, flow)?, table.go_on(&stage, flow)?];
                table.packet_ns.push(ns);
                table.again_ns.push(again);
            }
        }
        for _ in 0..BATCH {
            nothing_ns.push(run(floor, &foreign, &stage, NEXT)?);
            floor_ns.push(run(floor, &fixed, &stage, REDIRECT)?);
        }
    }
    let mut rows = Vec::new();
    for table in &mut tables {
        rows.push(table.json()?);
    }
    println!(
        "{{\"nothing_ns\":{},\"floor_ns\":{},\"tables\":[{}]}}",
        quantiles(&mut nothing_ns),
        quantiles(&mut floor_ns),
        rows.join(",")
    );
    for table in &tables {
        table.object.pins().purge()?;
    }
    Ok(())
}

impl Table {
    /// With room for as many flows as a proxy has by default, and no flow yet.
    fn open(size: u32, stage: &Stage) -> Outcome<Self> {
        let folder = Path::new("/sys/fs/bpf").join(size.to_string());
        let mut object = Object::load(Pins::at(&folder)?, Size::default())?;
        let mut tables = object.tables()?;
        tables.set_ports(ports_beside(1024, 1151));
        let mut change = tables.begin();
        for number in 0..LISTENERS {
            let (listener, backend) = (stage.listener(number), stage.backend(number));
            change.assign(number, endpoint(listener), endpoint(backend));
            change.live(number, FOR_EVER);
            change.lead(number, to(number));
            change.listen(endpoint(listener), number)?;
        }
        change.commit();
        let [open_ns, packet_ns, again_ns] = [const { Vec::new() }; 3];
        Ok(Self { size, object, tables, opened: 0, open_ns, packet_ns, again_ns })
    }

    /// The next client's SYN.
    fn begin_flow(&mut self, stage: &Stage) -> Outcome<u64> {
        let ns = self.run(stage, self.opened, true)?;
        self.opened += 1;
        Ok(ns)
    }

    /// Data of a client that has a flow.
    fn go_on(&mut self, stage: &Stage, flow: u32) -> Outcome<u64> {
        self.run(stage, flow, false)
    }

    fn run(&mut self, stage: &Stage, flow: u32, syn: bool) -> Outcome<u64> {
        let packet = frame(stage, client(flow), 40_000, stage.listener(flow), syn)?;
        run(self.object.program()?, &packet, stage, REDIRECT).map_err(|error| {
            let counts = Counter::ALL.iter().map(|&counter| (counter.name(), self.tables.count(counter)));
            let counts: Vec<_> = counts.filter(|(_, number)| !matches!(number, Ok(0))).collect();
            format!("{error}, of flow {flow} of {}; counted: {counts:?}", self.size).into()
        })
    }

    fn json(&mut self) -> Outcome<String> {
        let opened = self.tables.count(Counter::Opened)?;
        if opened != u64::from(self.opened) {
            return Err(format!("{opened} flows were opened, not {}", self.opened).into());
        }
        let mut maps = Vec::new();
        for map in fs::read_dir(self.object.pins().path().join("maps"))? {
            let map = map?;
            maps.push(format!("\"{}\":{}", map.file_name().to_string_lossy(), memory(&map.path())?));
        }
        maps.sort();
        Ok(format!(
            "{{\"flows\":{},\"open_ns\":{},\"packet_ns\":{},\"again_ns\":{},\"map_bytes\":{{{}}}}}",
            self.size,
            quantiles(&mut self.open_ns),
            quantiles(&mut self.packet_ns),
            quantiles(&mut self.again_ns),
            maps.join(",")
        ))
    }
}

impl Stage {
    fn listener(&self, number: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.here), FIRST_PORT + (number % LISTENERS) as u16)
    }

    fn backend(&self, number: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.server), FIRST_PORT + (number % LISTENERS) as u16)
    }
}

/// Each flow is of a client of its own.
fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number)
}

/// A way to one pair, masqueraded.
fn to(pair: u32) -> Way {
    let mut choices = [Choice::default(); MAX_CHOICES];
    choices[0] = Choice { pair, upto: 1 };
    Way { kind: kind::LEADS, source: source::MASQUERADE, backends: 1, weight: 1, choices, ..Way::default() }
}

/// A SYN, or 64 bytes.
fn frame(stage: &Stage, from: Ipv4Addr, port: u16, to: SocketAddr, syn: bool) -> Outcome<Vec<u8>> {
    let IpAddr::V4(target) = to.ip() else { return Err("IPv4 only".into()) };
    let builder = PacketBuilder::ethernet2([2; 6], stage.mac).ipv4(from.octets(), target.octets(), 64);
    let builder = builder.tcp(port, to.port(), 7, 1000);
    let (builder, data) = if syn { (builder.syn(), &[][..]) } else { (builder.ack(9), &[1; 64][..]) };
    let mut packet = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut packet, data)?;
    Ok(packet)
}

/// Goes on on another processor: each has entries of its own to give away (the kernel's `pcpu_freelist`), and those of
/// others cost more.
fn take_turns(processors: usize, number: u32) -> Outcome<()> {
    let mut one = CpuSet::new();
    one.set(number as usize % processors)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// How long a program took for one packet, in nanoseconds, when it came to that verdict.
fn run(program: &SchedClassifier, packet: &[u8], stage: &Stage, expected: u32) -> Outcome<u64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.ctx_in = Some(&stage.context);
    let result = program.test_run(options)?;
    if result.return_value != expected {
        return Err(format!("verdict {} on a packet", result.return_value).into());
    }
    Ok(result.duration.as_nanos() as u64)
}

/// What the kernel accounts for a map.
fn memory(path: &Path) -> Outcome<u64> {
    let map = MapData::from_pin(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).ok_or("the kernel accounts no memory")?;
    Ok(line.trim().parse()?)
}

fn quantiles(times: &mut [u64]) -> String {
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or_default();
    let mean = times.iter().sum::<u64>() as f64 / times.len().max(1) as f64;
    format!(
        "{{\"median\":{},\"quartiles\":[{},{}],\"p99\":{},\"mean\":{mean:.1},\"packets\":{}}}",
        at(0.5),
        at(0.25),
        at(0.75),
        at(0.99),
        times.len()
    )
}

/// Numbers from a seed (xorshift), so that every run takes the same flows.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(limit)) as u32
    }
}
