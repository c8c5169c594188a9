//! How a server is asked for its binary log.

use shunt_core::gtid::GtidSet;

use super::bytes::put_varlen;

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
/// The answer ends with the log, instead of waiting for more.
const NON_BLOCK: u16 = 1;
/// Of the flags: a set of transactions follows.
const THROUGH_GTID: u16 = 4;
/// No number: under a replica's, the server would end that replica's own dump. So does mysqlbinlog.
const NOBODY: u32 = 0;
/// A log begins behind its magic number.
const BEGINNING: u32 = 4;

/// For everything that is not in `known`. (MySQL's `COM_BINLOG_DUMP_GTID`.)
pub(super) fn dump_gtids(known: &GtidSet) -> Vec<u8> {
    let set = encode(known);
    let mut command = vec![COM_BINLOG_DUMP_GTID];
    command.extend((NON_BLOCK | THROUGH_GTID).to_le_bytes());
    command.extend(NOBODY.to_le_bytes());
    // No file's name.
    command.extend(0_u32.to_le_bytes());
    command.extend(u64::from(BEGINNING).to_le_bytes());
    command.extend((set.len() as u32).to_le_bytes());
    command.extend(set);
    command
}

/// For everything from a file's beginning on.
pub(super) fn dump_file(name: &str) -> Vec<u8> {
    let mut command = vec![COM_BINLOG_DUMP];
    command.extend(BEGINNING.to_le_bytes());
    command.extend(NON_BLOCK.to_le_bytes());
    command.extend(NOBODY.to_le_bytes());
    command.extend(name.as_bytes());
    command
}

/// A set as the server encodes it: origins counted, each with its intervals counted, whose ends are exclusive. Servers
/// since 8.3 have another form with tags, which older ones do not know: it is used for sets with tags only.
/// (`Gtid_set::encode`.)
fn encode(set: &GtidSet) -> Vec<u8> {
    let tagged = set.origins().any(|(_, tag, _)| !tag.as_str().is_empty());
    let count = set.origins().count() as u64;
    let mut bytes = Vec::new();
    if tagged {
        bytes.extend((1 << 56 | count << 8 | 1).to_le_bytes());
    } else {
        bytes.extend(count.to_le_bytes());
    }
    for (uuid, tag, intervals) in set.origins() {
        bytes.extend(uuid.0.to_be_bytes());
        if tagged {
            put_varlen(&mut bytes, tag.as_str().len() as u64);
            bytes.extend(tag.as_str().bytes());
        }
        bytes.extend((intervals.len() as u64).to_le_bytes());
        for (first, last) in intervals {
            bytes.extend(first.to_le_bytes());
            bytes.extend((last + 1).to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_encoded_as_the_server_does() {
        let set: GtidSet = "00000000-0000-0000-0000-000000000001:1-5:7".parse().unwrap();
        let numbers: Vec<u64> = encode(&set).chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap())).collect();
        assert_eq!(numbers, [1, 0, 1 << 56, 2, 1, 6, 7, 8]);
        let tagged: GtidSet = "00000000-0000-0000-0000-000000000001:aa:1".parse().unwrap();
        let bytes = encode(&tagged);
        assert_eq!(bytes[..8], [1, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes[24..27], [4, b'a', b'a']);
    }
}
