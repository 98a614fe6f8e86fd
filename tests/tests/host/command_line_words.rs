//! The texts of the command line: its help, its common errors, and its exit codes. Each is compared with a file in
//! `command_line/`, so that a review shows a changed text as such.
//!
//! `INSTA_UPDATE=always cargo xtask test --test host command_line_words` rewrites the files.

use insta::{Settings, assert_snapshot};
use std::fs;
use std::process::Command;
use wasmill_tests::built;
use wasmill_tests::setting::{ORDERS, Setting};

/// What a manifest may have wrong, one of each kind.
const BAD: &str = "data = 7\nlisten = \"127.0.0.1:0\"\n\n[plugins.orders]\nfil = \"orders.wasm\"\n\n\
                   [sources.baskets]\ntopics = [\"baskets\"]\nto = \"order\"\nbatch_max = 0\n";

#[test]
fn every_command_explains_itself() {
    let setting = Setting::new(ORDERS);
    let top = help(&setting, &[]);
    held("help", &top);
    for command in commands(&top) {
        let mut text = String::new();
        collect(&setting, &[&command], &mut text);
        held(&format!("help-{command}"), &text);
    }
}

#[test]
fn common_errors_say_what_to_do_and_have_their_exit_code() {
    let setting = Setting::new(ORDERS);
    // Otherwise a command that needs a manifest would take this one.
    fs::remove_file(setting.path("wasmill.toml")).expect("remove the default manifest");
    setting.write("bad.toml", BAD);
    setting.write("broken.toml", "[plugins\n");
    setting.write("absent-plugin.toml", "[plugins.orders]\nfile = \"absent.wasm\"\n");
    let lines: &[(&str, &[&str])] = &[
        ("usage", &["", "sned order 1 Create {}", "send order 1", "run", "test flows.toml", "events --limit many"]),
        (
            "manifest",
            &["run absent.toml", "check absent.toml", "check bad.toml", "check broken.toml", "run bad.toml --json"],
        ),
        ("plugin", &["check absent-plugin.toml", "test absent.wasm cases.toml"]),
        (
            "no-host",
            &["status --url http://127.0.0.1:1", "status --data .", "status --data . --json", "events --data absent"],
        ),
        ("arguments", &["send order 1 Create {", "query sales totals {", "status --url https://127.0.0.1:1"]),
        ("store", &["store verify absent", "store stats --data absent"]),
        ("kafka", &["kafka topics list"]),
    ];
    for (name, lines) in lines {
        let said: Vec<_> = lines.iter().map(|line| said(&setting, line)).collect();
        held(&format!("errors-{name}"), &said.join("\n"));
    }
}

/// The help of a command and of all below it.
fn collect(setting: &Setting, words: &[&str], text: &mut String) {
    let help = help(setting, words);
    let gap = if text.is_empty() { "" } else { "\n" };
    *text += &format!("{gap}$ wasmill {} --help\n{help}", words.join(" "));
    for command in commands(&help) {
        collect(setting, &[words, &[&command]].concat(), text);
    }
}

fn help(setting: &Setting, words: &[&str]) -> String {
    let output = program(setting).args(words).arg("--help").output().expect("run wasmill");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The commands that a help lists, but for the one that shows help.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

/// A line as somebody types it, what the program writes, and how it exits.
fn said(setting: &Setting, line: &str) -> String {
    let output = program(setting).args(line.split_whitespace()).output().expect("run wasmill");
    let mut text = format!("{}\n", format!("$ wasmill {line}").trim_end());
    for (name, stream) in [("stdout", output.stdout), ("stderr", output.stderr)] {
        let written = String::from_utf8(stream).expect("it writes text");
        written.lines().for_each(|line| text += &format!("{}\n", format!("{name}: {line}").trim_end()));
    }
    let code = output.status.code().expect("no signal ended it");
    format!("{text}exit code: {code}\n").replace(&*setting.path("").to_string_lossy(), "FOLDER/")
}

/// The program in the folder of a setting. The person's own settings don't reach it.
fn program(setting: &Setting) -> Command {
    let mut command = Command::new(built::program("wasmill"));
    command.current_dir(setting.path("")).env_remove("WASMILL_URL").env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

fn held(name: &str, text: &str) {
    let mut settings = Settings::clone_current();
    // In the checkout of this run, which need not be the one that it was compiled in.
    settings.set_snapshot_path(built::workspace().join("tests/tests/host/command_line"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| assert_snapshot!(name, text));
}
