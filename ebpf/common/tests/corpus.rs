//! The fuzzer's corpus, without the fuzzer: every frame of it, and some thousand mutations of each.

mod agreement;

use std::fs;
use std::path::{Path, PathBuf};

const MUTATIONS: usize = 4000;

/// Bytes from a seed (xorshift), so that a failure can be had again.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/headers");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// One step away: bytes that are others, that are missing, that came between, or that are of another frame.
fn mutate(frame: &mut Vec<u8>, others: &[(PathBuf, Vec<u8>)], noise: &mut Noise) {
    /// Numbers that headers turn on.
    const TELLING: [u8; 12] = [0, 1, 4, 6, 43, 44, 0x45, 0x46, 58, 60, 0x60, 0xff];
    let at = noise.below(frame.len());
    match noise.below(6) {
        0 if !frame.is_empty() => frame[at] = noise.below(256) as u8,
        1 if !frame.is_empty() => frame[at] = TELLING[noise.below(TELLING.len())],
        2 if !frame.is_empty() => frame[at] ^= 1 << noise.below(8),
        3 => frame.truncate(at),
        4 => {
            let bytes: Vec<u8> = (0..=noise.below(8)).map(|_| noise.below(256) as u8).collect();
            frame.splice(at..at, bytes);
        }
        _ => {
            let other = &others[noise.below(others.len())].1;
            frame.truncate(at);
            frame.extend(other.get(at..).unwrap_or_default());
        }
    }
}

#[test]
fn every_frame_of_the_corpus_is_read_alike() {
    let all = corpus();
    assert!(all.len() >= 30, "{} frames", all.len());
    for (path, frame) in all {
        std::panic::catch_unwind(|| agreement::agree(&frame)).unwrap_or_else(|_| panic!("{}", path.display()));
    }
}

#[test]
fn and_so_are_thousands_of_their_mutations() {
    let all = corpus();
    for (number, (path, seed)) in all.iter().enumerate() {
        let mut noise = Noise(0x5eed + number as u64);
        let mut frame = seed.clone();
        for mutation in 0..MUTATIONS {
            // Some steps away from it at most.
            if mutation % 8 == 0 {
                frame.clone_from(seed);
            }
            mutate(&mut frame, &all, &mut noise);
            let agrees = std::panic::catch_unwind(|| agreement::agree(&frame));
            agrees.unwrap_or_else(|_| panic!("mutation {mutation} of {}: {frame:x?}", path.display()));
        }
    }
}
