//! The example in several languages: each plugin is built from an empty folder and does the same.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

/// A language with the programs that building its plugin needs, each with the argument that shows its version.
struct Language {
    name: &'static str,
    needs: &'static [(&'static str, &'static str)],
}

const PYTHON: Language = Language { name: "python", needs: &[("python3", "--version")] };
const JAVASCRIPT: Language = Language { name: "javascript", needs: &[("node", "--version"), ("npm", "--version")] };
const GO: Language = Language { name: "go", needs: &[("go", "version"), ("cargo", "--version")] };

impl Language {
    /// Whether the plugin can be built here. CI must have every program; elsewhere a line says what is left out.
    fn is_here(&self) -> bool {
        let runs = |(program, version): &&(&str, &str)| {
            let silent = || Stdio::null();
            let ran = Command::new(program).arg(version).stdin(silent()).stdout(silent()).stderr(silent()).status();
            ran.is_ok_and(|status| status.success())
        };
        let Some((missing, _)) = self.needs.iter().find(|need| !runs(need)) else { return true };
        let reason = format!("the plugin in {} needs `{missing}`, which is not on this machine", self.name);
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        eprintln!("left out: {reason}");
        false
    }

    /// Builds the plugin in a folder by its script.
    fn build(&self, folder: &Path) -> PathBuf {
        let script = built::workspace().join("examples/polyglot").join(self.name).join("build.sh");
        let output = Command::new("sh").arg(script).arg(folder).stdin(Stdio::null()).output().expect("run a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} is not built: {said}", self.name);
        folder.join("stock.wasm")
    }

    fn serves(&self, component: &Path) {
        let (plugin, of_type) = (format!("stock-{}", self.name), format!("stock-{}", self.name));
        let component = component.display();
        let setting =
            Setting::new(&format!("[plugins.{plugin}]\nfile = '{component}'\nshards = 1\nsnapshot_every = 4\n"));
        let host = setting.start();
        let described = host.get(&format!("/v1/plugins/{plugin}")).body;
        let aggregate = &described["roles"][0];
        assert_eq!((&described["plugin"], &aggregate["type"]), (&json!(plugin), &json!(of_type)), "{described}");
        assert_eq!(aggregate["commands"][1]["name"], "Take");
        assert_eq!(aggregate["commands"][1]["schema"]["type"], "object");
        assert_eq!(described["roles"][1]["subscriptions"], json!([format!("{of_type}.Taken")]));

        let send = |command: &str, payload: &Value| host.send(&of_type, "apples", command, payload);
        assert_eq!(send("Receive", &json!({ "quantity": 10 })).status, 200);
        assert_eq!(send("Take", &json!({ "quantity": 7 })).status, 200);
        host.drained();
        let refused = send("Take", &json!({ "quantity": 100 }));
        assert_eq!((refused.status, &refused.body["detail"]), (422, &json!("only 23 left")));
        for (command, payload) in [
            ("Take", json!({ "quantity": 0 })),
            ("Take", json!({ "quantity": "7" })),
            ("Take", json!([])),
            ("Take", json!(null)),
            ("Fly", json!(null)),
        ] {
            let refused = send(command, &payload);
            assert_eq!(refused.status, 400, "{command} {payload}: {refused:?}");
        }
        let events = recorded(&host, &of_type);
        let expected = [
            ("Received", json!({ "quantity": 10 })),
            ("Taken", json!({ "quantity": 7, "left": 3 })),
            ("Received", json!({ "quantity": 20 })),
        ];
        assert_eq!(events, expected.map(|(name, payload)| (name.to_owned(), payload)));
        // A snapshot is made and restored, and the rest is replayed.
        for quantity in [1, 2, 3] {
            assert_eq!(send("Take", &json!({ "quantity": quantity })).status, 200);
        }
        host.crash();
        let refused = host.send(&of_type, "apples", "Take", &json!({ "quantity": 18 }));
        assert_eq!((refused.status, &refused.body["detail"]), (422, &json!("only 17 left")), "rebuilt");
        assert_eq!(host.send(&of_type, "apples", "Take", &json!({ "quantity": 17 })).status, 200);
        host.drained();
        assert_eq!(recorded(&host, &of_type).last(), Some(&("Received".to_owned(), json!({ "quantity": 20 }))));
        host.stop();
    }
}

fn recorded(host: &TestHost, of_type: &str) -> Vec<(String, Value)> {
    let events = host.events(&format!("{of_type}.*"));
    let shown = |event: &Value| (event["name"].as_str().expect("a name").to_owned(), event["payload"].clone());
    events.iter().map(shown).collect()
}

#[test]
fn a_plugin_in_python_serves() {
    if PYTHON.is_here() {
        let folder = tempfile::tempdir().expect("make a folder");
        PYTHON.serves(&PYTHON.build(folder.path()));
    }
}

#[test]
fn a_plugin_in_javascript_serves() {
    if JAVASCRIPT.is_here() {
        let folder = tempfile::tempdir().expect("make a folder");
        JAVASCRIPT.serves(&JAVASCRIPT.build(folder.path()));
    }
}

/// Its tools are compiled first, so its folder is kept for the next run. In a clean clone it is empty.
#[test]
fn a_plugin_in_go_serves() {
    if GO.is_here() {
        GO.serves(&GO.build(&built::workspace().join("target/polyglot/go")));
    }
}
