//! A stop has one deadline, whatever hangs, and when it has ended, the data folder is free.

use serde_json::{Value, json};
use std::ffi::CStr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

fn create(host: &TestHost, id: &str) {
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60_000, "discount_cents": 5 });
    let order = json!({ "household_id": "7", "store_id": "9", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
}

/// A terminal, and a host that it controls.
struct Terminal {
    master: OwnedFd,
    host: Child,
}

impl Terminal {
    fn start(setting: &Setting) -> Self {
        // SAFETY: these calls take a descriptor that is open, and a buffer of the given size.
        let (master, slave) = unsafe {
            let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0, "make a terminal");
            let mut name = [0; 100];
            assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0, "name it");
            (OwnedFd::from_raw_fd(master), CStr::from_ptr(name.as_ptr()).to_owned())
        };
        let mut command = Command::new(built::program("wasmill"));
        command
            .args(["run", "wasmill.toml", "--data", "data", "--listen", "127.0.0.1:0"])
            .current_dir(setting.path(""));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: both calls are async-signal-safe. A terminal that a process without one opens controls it.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                let terminal = libc::open(slave.as_ptr(), libc::O_RDWR);
                if terminal < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        Self { master, host: command.spawn().expect("start a host") }
    }
}

#[test]
fn a_host_whose_terminal_hangs_up_stops_in_order_and_its_file_goes_last() {
    let setting = Setting::grocery();
    let Terminal { master, mut host } = Terminal::start(&setting);
    let file = setting.path("data/host.json");
    let deadline = Instant::now() + Duration::from_secs(60);
    let until = |is_there: bool| {
        while file.exists() != is_there {
            assert!(Instant::now() < deadline, "it does not {}", if is_there { "start" } else { "stop" });
            std::thread::park_timeout(Duration::from_millis(1));
        }
    };
    until(true);
    drop(master);
    until(false);
    // At once: the lock went before the file.
    let next = setting.start();
    next.drained();
    assert!(host.wait().expect("it has ended").success());
    next.stop();
}

#[test]
fn a_stop_with_a_frozen_broker_and_many_sinks_keeps_its_deadline_and_loses_nothing() {
    let setting = Setting::grocery();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    let sinks: String = (0..5)
        .map(|number| {
            format!("[kafka.topics.audit-{number}]\n[sinks.audit-{number}]\nevents = [\"order.*\"]\ntopic = \"audit-{number}\"\n")
        })
        .collect();
    setting.manifest(&format!("{manifest}\n[host]\nstop_max_ms = 12000\n{sinks}"));
    let host = setting.start();
    create(&host, "1");
    host.drained();
    let broker: Value = serde_json::from_slice(&std::fs::read(setting.path("data/dev-broker.json")).expect("its file"))
        .expect("the file is JSON");
    let broker = broker["pid"].as_i64().expect("a process id") as i32;
    // SAFETY: kill has no preconditions; the broker is a child of the host, which has not waited for it yet.
    assert_eq!(unsafe { libc::kill(broker, libc::SIGSTOP) }, 0);
    create(&host, "2");
    host.until("sinks have something to publish", |status| {
        status["sinks"].as_array().is_some_and(|sinks| sinks.iter().filter(|sink| sink["pending"] != 0).count() >= 5)
    });
    let asked = Instant::now();
    host.stop();
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());

    let host = setting.start();
    host.drained();
    assert_eq!(host.events("order.OrderConfirmed").len(), 2);
    let published = |name: &str| wasmill_tests::topic::read(&host.brokers(), name, 2).len();
    assert!(published("audit-0") >= 2, "what was not published then is published now");
    host.stop();
}
