//! Tests of the credentials of the API: tokens, certificates, and their replacement.

use super::*;
use crate::manifest::Scope;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::path::Path;

const TILL: &str = "till-token-0123456789";
const OTHER: &str = "other-token-0123456789";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    /// Writes a certificate for a name, and its key.
    fn certificate(&self, name: &str, of: &str, params: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut of = CertificateParams::new(vec![of.to_owned()]).unwrap();
        params(&mut of);
        let certificate = of.self_signed(&key).unwrap();
        self.write(&format!("{name}.pem"), certificate.pem());
        self.write(&format!("{name}.key"), key.serialize_pem());
    }

    fn settings(&self, text: &str) -> Api {
        let path: &Path = &self.0.path().join("wasmill.toml");
        Manifest::parse(text, path).unwrap_or_else(|error| panic!("{error}")).api
    }
}

fn name_of(access: &Access, authorization: &str) -> Result<Option<String>, Unrecognised> {
    let caller = access.recognise(Some(authorization.as_bytes()), None)?;
    Ok(caller.name().map(ToString::to_string))
}

/// Looks at the files as often as it takes to read them again.
fn looked_at(access: &Access) {
    access.refresh();
    access.refresh();
}

const CLIENTS: &str = "[api.clients.till]\ntokens = [{ file = 'new' }, { file = 'old' }]\nscopes = ['commands']\n\
                       aggregates = ['order']\n[api.clients.boss]\ntokens = [{ file = 'boss' }]\nscopes = ['admin']\n";

#[test]
fn every_token_of_a_client_is_valid_until_its_file_is_gone() {
    let folder = Folder::new();
    folder.write("new", format!("{TILL}\n"));
    folder.write("old", OTHER);
    folder.write("boss", "boss-token-0123456789");
    let access = Access::open(&folder.settings(CLIENTS)).unwrap();
    let till = Ok(Some("till".to_owned()));
    for authorization in [format!("Bearer {TILL}"), format!("bearer {OTHER}"), format!("Bearer  {TILL} ")] {
        assert_eq!(name_of(&access, &authorization), till, "{authorization}");
    }
    for (authorization, reason) in [
        ("Basic dGlsbDo=", Unrecognised::NotBearer),
        ("Bearer", Unrecognised::NotBearer),
        ("Bearer ", Unrecognised::WrongToken),
        ("Bearer till-token-012345678", Unrecognised::WrongToken),
        ("Bearer till-token-01234567890", Unrecognised::WrongToken),
    ] {
        assert_eq!(name_of(&access, authorization), Err(reason), "{authorization}");
    }
    assert_eq!(access.recognise(None, None).unwrap_err(), Unrecognised::NoCredentials);

    fs::remove_file(folder.0.path().join("old")).unwrap();
    folder.write("new", "rotated-token-0123456789");
    looked_at(&access);
    assert_eq!(name_of(&access, &format!("Bearer {OTHER}")), Err(Unrecognised::WrongToken));
    assert_eq!(name_of(&access, &format!("Bearer {TILL}")), Err(Unrecognised::WrongToken));
    assert_eq!(name_of(&access, "Bearer rotated-token-0123456789"), till);
    let error = access.condition().error.unwrap();
    assert!(error.contains("`api.clients.till.tokens[1]` is in the file"), "{error}");
    folder.write("old", OTHER);
    looked_at(&access);
    assert_eq!(name_of(&access, &format!("Bearer {OTHER}")), till);
    assert_eq!(access.condition(), Condition::default());
}

#[test]
fn a_client_may_do_what_its_scopes_and_limits_say() {
    let folder = Folder::new();
    [("new", TILL), ("old", OTHER), ("boss", "boss-token-0123456789")]
        .into_iter()
        .for_each(|(file, token)| folder.write(file, token));
    let access = Access::open(&folder.settings(CLIENTS)).unwrap();
    let caller = |token: &str| access.recognise(Some(format!("Bearer {token}").as_bytes()), None).unwrap();
    let (till, boss) = (caller(TILL), caller("boss-token-0123456789"));
    assert!(till.has(Scope::Commands) && !till.has(Scope::Read) && !till.has(Scope::Admin));
    assert!(till.may_use_aggregate("order") && !till.may_use_aggregate("orders") && till.may_ask("sales"));
    assert!(
        boss.has(Scope::Read) && boss.has(Scope::Operate) && !boss.has(Scope::Commands) && boss.may_use_aggregate("x")
    );
}

#[test]
fn tokens_that_are_none_are_named_and_not_shown() {
    for (token, words) in [
        ("short", "is no token: it must have 16 to 4096"),
        ("a token with spaces in it", "is no token"),
        ("two-lines-0123456789\ntwo-lines-0123456789", "is no token"),
        ("", "which is empty"),
        ("boss-token-0123456789", "is also a token of the client boss"),
    ] {
        let folder = Folder::new();
        let files = [("new", token), ("old", OTHER), ("boss", "boss-token-0123456789")];
        files.into_iter().for_each(|(file, token)| folder.write(file, token));
        let errors = Access::open(&folder.settings(CLIENTS)).err().unwrap();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("`api.clients.till.tokens[0]`") && errors[0].contains(words), "{errors:?}");
        assert!(token.is_empty() || !errors[0].contains(token), "{errors:?}");
    }
}

const TLS: &str = "[api.tls]\ncertificate_file = 'host.pem'\nkey_file = 'host.key'\n";

#[test]
fn a_certificate_that_can_t_be_used_is_refused_at_a_start_and_replaces_none_later() {
    let folder = Folder::new();
    folder.certificate("host", "localhost", |_| {});
    folder.certificate("other", "localhost", |_| {});
    let settings = folder.settings(TLS);
    let access = Access::open(&settings).unwrap();
    let first = access.tls().unwrap().config;
    let good = fs::read(folder.0.path().join("host.pem")).unwrap();
    let other = fs::read(folder.0.path().join("other.pem")).unwrap();
    for (certificate, words) in [
        (&other[..], "`api.tls.key_file`, "),
        (b"", "can't be used: it has none"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "`api.tls.certificate_file`, "),
    ] {
        folder.write("host.pem", certificate);
        let errors = Access::open(&settings).err().unwrap();
        assert!(errors.len() == 1 && errors[0].contains(words), "{errors:?}");
        looked_at(&access);
        assert!(Arc::ptr_eq(&access.tls().unwrap().config, &first), "the one before stays");
        let error = access.condition().error.unwrap();
        assert!(error.contains(words), "{error}");
    }
    folder.write("host.pem", good);
    looked_at(&access);
    assert!(!Arc::ptr_eq(&access.tls().unwrap().config, &first));
    assert_eq!(access.condition().error, None);
}

#[test]
fn a_certificate_whose_time_is_over_is_reported_and_used() {
    let year = |year| rcgen::date_time_ymd(year, 1, 1);
    for (begins, ends, words) in [
        (2000, 2001, Some("expired at 2001-01-01T00:00:00Z, so clients refuse it")),
        (2900, 2901, Some("is not valid before 2900-01-01T00:00:00Z")),
        (2000, 2900, None),
    ] {
        let folder = Folder::new();
        folder.certificate("host", "localhost", |params| {
            (params.not_before, params.not_after) = (year(begins), year(ends));
        });
        let access = Access::open(&folder.settings(TLS)).unwrap();
        let Condition { error, certificate_ends_ms } = access.condition();
        assert_eq!(error.is_some(), words.is_some(), "{error:?}");
        assert!(error.unwrap_or_default().contains(words.unwrap_or_default()));
        assert_eq!(certificate_ends_ms, Some(year(ends).unix_timestamp() as u64 * 1000));
        assert!(access.tls().is_some());
    }
}

#[test]
fn a_client_is_recognised_by_a_name_of_its_certificate() {
    let folder = Folder::new();
    folder.certificate("host", "localhost", |_| {});
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    folder.write("ca.pem", authority.pem());
    let of = |name: &str| {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap().der().clone()
    };
    let text = format!(
        "{TLS}client_ca_file = 'ca.pem'\n[api.clients.till]\ncertificate_names = ['till.shop.example']\nscopes = ['read']\n"
    );
    let access = Access::open(&folder.settings(&text)).unwrap();
    let trust = access.tls().unwrap().trust;
    let name = |certificate: CertificateDer<'static>| {
        let caller = access.recognise(None, Some((&Arc::new(certificate), trust)));
        caller.map(|caller| caller.name().unwrap().to_string())
    };
    assert_eq!(name(of("till.shop.example")), Ok("till".to_owned()));
    assert_eq!(name(of("TILL.shop.example")), Ok("till".to_owned()));
    for other in ["stall.shop.example", "*.shop.example", "till.shop.example.evil"] {
        assert_eq!(name(of(other)), Err(Unrecognised::UnknownCertificate), "{other}");
    }
    let till = Arc::new(of("till.shop.example"));
    let old = access.recognise(None, Some((&till, Trust::default())));
    assert_eq!(old.unwrap_err(), Unrecognised::OldConnection);
    let wrong = access.recognise(Some(b"Bearer no"), Some((&till, trust)));
    assert_eq!(wrong.unwrap_err(), Unrecognised::WrongToken, "a token that is sent must be valid");
}

#[test]
fn only_names_of_the_host_are_let_in() {
    let access =
        Access::open(&Api { hosts: vec!["shop.example".into(), "proxy:8443".into()], ..Api::default() }).unwrap();
    for host in ["127.0.0.1:7310", "localhost", "[::1]:7310", "shop.example", "SHOP.example:443", "proxy:8443"] {
        assert!(access.allows_host(host), "{host}");
    }
    for host in ["", "evil.example", "shop.example.evil", "proxy", "proxy:443", "127.0.0.1.evil.example", "10.0.0.1"] {
        assert!(!access.allows_host(host), "{host}");
    }
}

#[test]
fn without_clients_everybody_may_do_everything() {
    let access = Access::open(&Api::default()).unwrap();
    let caller = access.recognise(None, None).unwrap();
    assert!(Scope::ALL.into_iter().all(|(_, scope)| caller.has(scope)) && caller.name().is_none());
}

#[test]
fn a_caller_is_recognised_again_while_its_token_is_valid() {
    let folder = Folder::new();
    folder.write("new", TILL);
    folder.write("old", OTHER);
    folder.write("boss", "boss-token-0123456789");
    let access = Access::open(&folder.settings(CLIENTS)).unwrap();
    let mut changes = access.changes();
    let caller = access.recognise(Some(format!("Bearer {OTHER}").as_bytes()), None).unwrap();
    assert!(access.again(&caller).is_some_and(|now| now.has(Scope::Commands)));
    fs::remove_file(folder.0.path().join("old")).unwrap();
    looked_at(&access);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert!(access.again(&caller).is_none());
    // A file that is there and can't be read takes nothing away.
    let new = access.recognise(Some(format!("Bearer {TILL}").as_bytes()), None).unwrap();
    fs::remove_file(folder.0.path().join("new")).unwrap();
    std::os::unix::fs::symlink("new", folder.0.path().join("new")).unwrap();
    looked_at(&access);
    assert!(access.again(&new).is_some(), "a link to itself can't be opened");
    assert!(access.condition().error.unwrap().contains("tokens[0]"));
}
