//! `kill -9` at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Output, Stdio};
use std::thread;
use std::time::Duration;

use super::rig::{Node, PLUGIN, Pod, feed, ips, variables};

/// A node with two addresses, so that a lost one is missed at once.
fn node() -> Node {
    Node::with_ranges(&["10.244.1.0/30", "fd00:244:1::/126"])
}

/// That nothing is lost: both addresses can be had.
#[track_caller]
fn assert_nothing_lost(node: &Node, at: &str) {
    node.assert_empty();
    let pods = [Pod::new("x"), Pod::new("y")];
    let mut addresses: Vec<String> = pods.iter().flat_map(|pod| ips(&node.add(pod).success())).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "killed {at}");
    pods.iter().for_each(|pod| drop(node.del(pod).success()));
}

/// One of the system calls of a process: its name, and how many of that name came before in its thread.
type Moment = (String, usize);

/// What the loader and the allocator do tells nothing.
const DULL: [&str; 14] = [
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "arch_prctl",
    "prlimit64",
    "rseq",
    "set_robust_list",
    "set_tid_address",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "getrandom",
];

/// All moments of a call.
fn moments(node: &Node, command: &str, pod: &Pod) -> Vec<Moment> {
    let log = node.path("strace");
    let traced = strace(node, command, pod, &["-o", log.to_str().unwrap()]);
    assert!(traced.status.success(), "{traced:?}");
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    let mut moments = BTreeSet::new();
    let text = fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !DULL.contains(&name) {
            let count = counts.entry((thread, name)).or_default();
            *count += 1;
            moments.insert((name.to_owned(), *count));
        }
    }
    moments.into_iter().collect()
}

fn strace(node: &Node, command: &str, pod: &Pod, options: &[&str]) -> Output {
    let mut strace = node.namespace.command("strace").expect("install the package strace");
    strace.env_clear().envs(variables(command, pod)).arg("-f").args(options).arg(PLUGIN);
    feed(&mut strace, &node.config)
}

/// Runs a call that is killed at a moment. Says whether it was.
fn killed_at(node: &Node, command: &str, pod: &Pod, (name, count): &Moment) -> bool {
    let inject = format!("inject={name}:signal=SIGKILL:when={count}");
    !strace(node, command, pod, &["-o", "/dev/null", "-e", &inject]).status.success()
}

/// Row N7: kill -9 at every system call of the first ADD of a node, then what the runtime owes: DEL or GC.
#[test]
fn n7_the_first_add_killed_at_any_system_call_loses_nothing() {
    let node = node();
    kill_adds(&node, &|| {
        let _ = fs::remove_dir_all(node.path("state"));
    });
}

/// Row N7: the same for a later one.
#[test]
fn n7_add_killed_at_any_system_call_loses_nothing() {
    let node = node();
    node.add(&Pod::new("first")).success();
    node.gc(&[]).success();
    kill_adds(&node, &|| {});
}

fn kill_adds(node: &Node, prepare: &dyn Fn()) {
    let pod = Pod::new("a");
    let moments = moments(node, "ADD", &pod);
    node.del(&pod).success();
    let mut kills = 0;
    for (number, moment) in moments.iter().enumerate() {
        let pod = Pod::new("a");
        prepare();
        kills += usize::from(killed_at(node, "ADD", &pod, moment));
        if number % 2 == 0 {
            node.del(&pod).success()
        } else {
            node.gc(&[]).success()
        };
        node.assert_empty();
        if number % 10 == 0 {
            assert_nothing_lost(node, &format!("at {moment:?}"));
        }
    }
    assert!(kills > 50 && kills * 10 > moments.len() * 9, "{kills} of {moments:?}");
}

/// Row N7: the same for DEL, which is then called again.
#[test]
fn n7_del_killed_at_any_system_call_is_completed_by_the_next() {
    let node = node();
    let pod = Pod::new("a");
    node.add(&pod).success();
    let moments = moments(&node, "DEL", &pod);
    let mut kills = 0;
    for moment in &moments {
        let pod = Pod::new("a");
        node.add(&pod).success();
        kills += usize::from(killed_at(&node, "DEL", &pod, moment));
        node.del(&pod).success();
        node.assert_empty();
    }
    assert!(kills > 30 && kills * 10 > moments.len() * 9, "{kills} of {moments:?}");
    assert_nothing_lost(&node, "in DEL");
}

/// An ADD that was killed and is called again without a DEL between gets what it had.
#[test]
fn n7_add_after_a_killed_add_succeeds() {
    let node = node();
    let pod = Pod::new("a");
    let moments = moments(&node, "ADD", &pod);
    node.del(&pod).success();
    for moment in moments.iter().step_by(7) {
        let pod = Pod::new("a");
        killed_at(&node, "ADD", &pod, moment);
        if !pod.has_interface() {
            let result = node.add(&pod).success();
            node.check(&pod, &result).success();
        }
        node.del(&pod).success();
        node.assert_empty();
    }
}

/// Rows N7 and N9: many at once, killed at random moments, while others are attached and stay whole.
#[test]
fn n7_n9_kills_at_random_moments_harm_nobody_else() {
    let node = Node::new();
    let (stays, survivors) = (Pod::new("stays"), 8);
    let result = node.add(&stays).success();
    let pods: Vec<Pod> = (0..32).map(|number| Pod::new(&format!("c{number}"))).collect();
    let results: Vec<Option<Vec<String>>> = thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let node = &node;
                scope.spawn(move || match number % 4 {
                    0 => Some(ips(&node.add(pod).success())),
                    _ => {
                        kill_after(node, pod, Duration::from_micros(number as u64 * 700));
                        None
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses: Vec<String> = results.into_iter().flatten().flatten().collect();
    addresses.extend(ips(&result));
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 2 * (survivors + 1));
    let mut valid: Vec<&Pod> = pods.iter().step_by(4).collect();
    valid.push(&stays);
    node.gc(&valid).success();
    assert_eq!((node.links().len(), node.routes().len(), node.holders().len()), (9, 18, 9));
    node.check(&stays, &result).success();
}

fn kill_after(node: &Node, pod: &Pod, moment: Duration) {
    let mut command = node.namespace.command(PLUGIN).unwrap();
    command.envs(variables("ADD", pod)).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut stdin, node.config.to_string().as_bytes());
    drop(stdin);
    thread::sleep(moment);
    let _ = child.kill();
    child.wait().unwrap();
}
