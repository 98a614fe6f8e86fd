//! A real Kafka with security: TLS with certificates made for the test, logins, and an authorizer.

use crate::certificates::Authority;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use xtask::kafka::missing_for_node;
use xtask::kafka::secured::{SecuredNode, Security};

/// Login of a user who may do everything.
pub const ADMIN: (&str, &str) = ("admin", "the-admins-secret");
/// Login of a user who may do nothing.
pub const GUEST: (&str, &str) = ("guest", "the-guests-secret");

static SHARED: Mutex<Weak<Secured>> = Mutex::new(Weak::new());

/// A node that starts with its first user and ends with its last.
pub struct Secured {
    // Fields are dropped in this order, so the node ends before its folder is removed.
    node: SecuredNode,
    folder: tempfile::TempDir,
}

impl Secured {
    /// Returns the node that the tests of this program share, or `None` if none can be started.
    pub fn shared() -> Option<Arc<Self>> {
        if crate::built::left_out(missing_for_node()) {
            return None;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        Some(shared.upgrade().unwrap_or_else(|| {
            let node = Arc::new(Self::start());
            *shared = Arc::downgrade(&node);
            node
        }))
    }

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let authority = Authority::new("the test's authority");
        // The certificate is for the address only, so the node is not trusted by its name.
        let issued = authority.issue(&["127.0.0.1"]);
        let keystore = [issued.key, issued.certificate, authority.pem()].concat();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("write a certificate");
        std::fs::write(folder.path().join("other-ca.pem"), Authority::new("another").pem())
            .expect("write a certificate");
        let security = Security { keystore: &keystore, users: &[ADMIN, GUEST], super_user: ADMIN.0 };
        let node =
            SecuredNode::start(&folder.path().join("node"), &security).unwrap_or_else(|error| panic!("{error:?}"));
        Self { node, folder }
    }

    /// Creates a topic that nobody has read, and returns its name.
    pub fn topic(&self, name: &str) -> String {
        crate::kafka::make_topic(self.node.node.brokers(), name, 1)
    }

    /// Returns the address of the listener with login and without TLS.
    pub fn sasl(&self) -> String {
        self.node.sasl_plaintext.to_string()
    }

    /// Returns the address of the listener with login and TLS.
    pub fn sasl_tls(&self) -> String {
        self.node.sasl_ssl.to_string()
    }

    /// Returns the same address by a name that the node's certificate does not have.
    pub fn sasl_tls_by_name(&self) -> String {
        format!("localhost:{}", self.node.sasl_ssl.port())
    }

    /// Returns the certificate of the authority that signed the node's.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Returns the certificate of another authority.
    pub fn other_ca(&self) -> PathBuf {
        self.folder.path().join("other-ca.pem")
    }
}
