//! Whose certificates are believed: this host's own authorities, as an administrator keeps them, and where there are none
//! those that Mozilla believes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Of Debian and its kin, and of Red Hat and its.
const BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Read anew for every connection: authorities change while the agent runs, and webhooks are rare.
pub(super) fn client() -> io::Result<Arc<ClientConfig>> {
    let roots = BUNDLES.iter().map(Path::new).find(|path| path.exists()).map_or_else(mozilla, read)?;
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth()))
}

#[expect(clippy::unnecessary_wraps, reason = "the other source of authorities can fail")]
fn mozilla() -> io::Result<RootCertStore> {
    Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
}

fn read(path: &Path) -> io::Result<RootCertStore> {
    let failed = |why: &dyn std::fmt::Display| {
        io::Error::other(format!("the certificates of {} cannot be read: {why}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        // A bundle may hold one that rustls does not understand; the others are as good as before.
        let _ = roots.add(certificate.map_err(|error| failed(&error))?);
    }
    if roots.is_empty() { Err(failed(&"there is none in it")) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_read_and_one_without_certificates_is_an_error() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("bundle.crt");
        std::fs::write(&path, "no certificate\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("there is none in it"));
        assert!(read(&dir.path().join("gone")).unwrap_err().to_string().contains("cannot be read"));
        assert!(!mozilla().unwrap().is_empty());
        client().expect("this host's authorities");
    }
}
