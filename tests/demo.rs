//! `ferrovia demo`, for root and for anybody.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ferrovia");
const NOBODY: u32 = 65534;

/// Every client was served, and everything that the demo writes is in its table.
fn assert_success(output: &Output) {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("requests, none failed."), "{text}");
    for (client, services) in
        [("10.244.1.9", 3), ("fd00:244:1::9", 1), ("172.18.0.100", 1), ("10.244.1.7", 1), ("10.244.1.8", 1)]
    {
        let lines = text.lines().filter(|line| line.split_whitespace().any(|word| word == client));
        assert_eq!(lines.count(), services, "{client} in\n{text}");
    }
}

#[test]
fn shows_services_at_work() {
    let output = Command::new(PROGRAM).args(["demo", "--duration", "8"]).output().unwrap();
    assert_success(&output);
}

#[test]
fn needs_no_root_where_there_are_user_namespaces() {
    // The build directory may be closed to others.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("ferrovia");
    fs::copy(PROGRAM, &program).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ferrovia-cni"), directory.path().join("ferrovia-cni")).unwrap();
    let demo = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("demo").args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/").output().unwrap()
    };
    assert_success(&demo(&["--duration", "8"]));
    let nodes = demo(&["--nodes", "2"]);
    assert!(nodes.status.success(), "{}", String::from_utf8_lossy(&nodes.stderr));
}

#[test]
fn fails_with_the_proxy_s_last_words() {
    let output = Command::new(PROGRAM).args(["demo", "--", "--no-such-flag"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("the proxy ended") && errors.contains("--no-such-flag"), "{errors}");
}

/// Its children too: the proxy is in namespaces that nobody else can clean up.
#[test]
fn ends_when_it_is_told_to() {
    let mut demo =
        Command::new(PROGRAM).args(["demo", "--duration", "600"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("one pod serves")), "it never came so far");
    let proxies = children(demo.id());
    assert_eq!(proxies.len(), 1, "it runs a proxy");
    // SAFETY: a signal to a child that was not waited for yet.
    assert_eq!(unsafe { libc::kill(demo.id() as i32, libc::SIGTERM) }, 0);
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(!demo.wait().unwrap().success(), "it did not come to its end");
    assert!(rest.iter().any(|line| line.contains("none failed")), "{}", rest.join("\n"));
    assert!(!fs::exists(format!("/proc/{}", proxies[0])).unwrap(), "its proxy is gone");
}

/// The processes that any thread of a process has started.
fn children(process: u32) -> Vec<u32> {
    fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        // Threads come and go.
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|children| children.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>())
        .collect()
}

#[test]
fn shows_pods_of_three_nodes() {
    let output = Command::new(PROGRAM).args(["demo", "--nodes", "3"]).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    for line in [
        "ferrovia-cni has attached 2 pods on each",
        "10.244.1.1      pod     10.244.2.2     10.244.1.1",
        "10.244.3.1      pod     10.244.1.2     10.244.3.1",
        "10.244.2.1      outside 172.18.0.1     172.18.0.12",
        "10.244.2.0/24 via 172.18.0.12 dev eth0",
        "All requests were answered, none failed.",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
