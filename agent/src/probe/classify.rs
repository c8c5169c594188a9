//! From an error to its kind. The kinds decide about failovers: when in doubt, a kind that says "alive".

use std::io;

use mysql_async::{DriverError, Error, IoError, ServerError};
use shunt_core::observation::FailureKind;

/// The kind of anything that the client library can say.
pub fn kind(error: &Error) -> FailureKind {
    match error {
        Error::Server(error) => of_code(error.code),
        Error::Io(IoError::Io(error)) => of_io(error),
        Error::Io(IoError::Tls(_)) => FailureKind::Tls,
        Error::Driver(error) => of_driver(error),
        // A parser's complaint, or an address that we made ourselves.
        Error::Other(_) | Error::Url(_) => FailureKind::NotMysql,
    }
}

/// The kind of an error number of MySQL (mysqld_error.h) or MariaDB.
pub const fn of_code(code: u16) -> FailureKind {
    match code {
        // ER_DBACCESS_DENIED, ER_ACCESS_DENIED, ER_HOST_NOT_PRIVILEGED, ER_NOT_SUPPORTED_AUTH_MODE,
        1044 | 1045 | 1130 | 1251 |
        // ER_ACCESS_DENIED_NO_PASSWORD, ER_ACCESS_DENIED_CHANGE_USER, CR_AUTH_PLUGIN_ERR,
        1698 | 1873 | 2061 |
        // ER_MUST_CHANGE_PASSWORD(_LOGIN), ER_ACCOUNT_HAS_BEEN_LOCKED, ER_SECURE_TRANSPORT_REQUIRED, MariaDB's ER_ACCOUNT_LOCKED.
        1820 | 1862 | 3118 | 3159 | 4151 => FailureKind::AuthDenied,
        // ER_CON_COUNT, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED.
        1040 | 1203 | 1226 => FailureKind::TooManyConnections,
        // ER_HOST_IS_BLOCKED.
        1129 => FailureKind::HostBlocked,
        // ER_SERVER_SHUTDOWN, ER_NORMAL_SHUTDOWN, ER_SERVER_OFFLINE_MODE.
        1053 | 1077 | 3032 => FailureKind::StartingOrStopping,
        // ER_CONNECTION_KILLED of MariaDB, ER_CLIENT_INTERACTION_TIMEOUT of MySQL: the server closed this one connection.
        1927 | 4031 => FailureKind::Reset,
        _ => FailureKind::Query,
    }
}

/// The kind of an I/O error.
pub fn of_io(error: &io::Error) -> FailureKind {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => FailureKind::Refused,
        Kind::UnexpectedEof if is_tls_handshake(error) => FailureKind::Tls,
        Kind::UnexpectedEof if is_unreadable(error) => FailureKind::NotMysql,
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected
        | Kind::UnexpectedEof
        | Kind::WriteZero => FailureKind::Reset,
        Kind::TimedOut => FailureKind::Timeout,
        // The packet codec's word for an end in the middle of a packet.
        Kind::Other if error.to_string().contains("bytes remaining on stream") => FailureKind::Reset,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            FailureKind::Unreachable
        }
        // A firewall of this machine said no (EPERM, EACCES): no way, whatever the server does.
        Kind::PermissionDenied => FailureKind::Unreachable,
        Kind::InvalidData if is_tls(error) => FailureKind::Tls,
        // Packets that are none: too large, out of order, unfinished.
        _ if error.raw_os_error().is_none() => FailureKind::NotMysql,
        // ENOBUFS, EMFILE and the like are this machine's trouble and say nothing about the server.
        _ => FailureKind::Unreachable,
    }
}

fn of_driver(error: &DriverError) -> FailureKind {
    match error {
        DriverError::ConnectionClosed => FailureKind::Reset,
        DriverError::UnknownAuthPlugin { .. }
        | DriverError::MysqlOldPasswordDisabled
        | DriverError::CleartextPluginDisabled
        | DriverError::InvalidParsecSalt => FailureKind::AuthDenied,
        DriverError::NoClientSslFlagFromServer => FailureKind::Tls,
        DriverError::FromRow { .. } | DriverError::FromValue { .. } => FailureKind::Query,
        _ => FailureKind::NotMysql,
    }
}

/// The TLS library's errors come wrapped in I/O errors, as the only ones of kind `InvalidData` that are not the packet
/// parser's own, which have a text instead of an error inside.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        let words = format!("{inner:?}");
        ["AlertReceived", "InvalidMessage", "PeerMisbehaved", "PeerIncompatible", "Decrypt"]
            .iter()
            .any(|w| words.contains(w))
    })
}

/// The words of the packet parser when a whole packet has less in it than it must.
fn is_unreadable(error: &io::Error) -> bool {
    error.to_string().contains("can't parse")
}

/// The words of tokio-rustls when the peer goes away in the handshake.
fn is_tls_handshake(error: &io::Error) -> bool {
    error.to_string().contains("tls handshake")
}

/// The error in one line.
pub fn words(error: &Error) -> String {
    match error {
        // An error that comes instead of a greeting has its state, if any, in the message (`#08004Too many connections`).
        Error::Server(ServerError { code, message, state }) => match message.strip_prefix('#').and_then(|m| m.get(5..))
        {
            Some(rest) => format!("ERROR {code}: {rest}"),
            None => format!("ERROR {code} ({state}): {message}"),
        },
        Error::Io(IoError::Io(error)) => error.to_string(),
        Error::Io(IoError::Tls(error)) => error.to_string(),
        Error::Driver(DriverError::UnexpectedPacket { .. }) => "a packet that has no place in the protocol".to_owned(),
        Error::Driver(error) => error.to_string(),
        Error::Other(error) => error.to_string(),
        Error::Url(error) => error.to_string(),
    }
}
