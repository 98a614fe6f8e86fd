//! A node with security: listeners with login, with and without TLS, and an authorizer.
//!
//! What is not granted is refused. The plain listener stays for setting things up; on it everything is allowed.

use super::{Node, Prepared, free_addresses, ours};
use anyhow::{Context, Result};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// The users of the node, and how it identifies itself.
pub struct Security<'a> {
    /// Private key and certificates of the node, in PEM.
    pub keystore: &'a str,
    /// Names and passwords, for SCRAM and for PLAIN.
    pub users: &'a [(&'a str, &'a str)],
    /// The user who may do everything. The others may do nothing.
    pub super_user: &'a str,
}

/// A running node with security.
pub struct SecuredNode {
    /// The node, with the address of its plain listener.
    pub node: Node,
    /// The listener with login and without TLS.
    pub sasl_plaintext: SocketAddr,
    /// The listener with login and TLS.
    pub sasl_ssl: SocketAddr,
}

impl SecuredNode {
    /// Makes a folder, starts an empty node in it, and waits until it answers.
    pub fn start(folder: &Path, security: &Security<'_>) -> Result<Self> {
        let [plain, controller, sasl_plaintext, sasl_ssl] = free_addresses()?;
        fs::create_dir_all(folder)?;
        let keystore = folder.join("keystore.pem");
        fs::write(&keystore, security.keystore)?;
        let template =
            fs::read_to_string(ours("secured.properties")).context("read the template secured.properties")?;
        let users: Vec<String> =
            security.users.iter().map(|(user, password)| format!("user_{user}=\"{password}\"")).collect();
        let more = template
            .replace("SASL_PORT", &sasl_plaintext.port().to_string())
            .replace("TLS_PORT", &sasl_ssl.port().to_string())
            .replace("PLAIN_USERS", &users.join(" "))
            .replace("SUPER_USER", security.super_user)
            .replace("KEYSTORE", &keystore.to_string_lossy());
        let scram = ["SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().flat_map(|mechanism| {
            security.users.iter().flat_map(move |(user, password)| {
                ["--add-scram".to_owned(), format!("{mechanism}=[name={user},password={password}]")]
            })
        });
        let node = Node::start_prepared(Prepared::with(folder, [plain, controller], &more, scram)?)?;
        Ok(Self { node, sasl_plaintext, sasl_ssl })
    }
}
