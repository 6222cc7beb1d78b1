//! The CNI plugin beside Debian's `bridge` with `host-local`, in a network namespace of its own: `cargo bench --bench cni`.
//!
//! Arguments: number of attachments (200), number of pods (250) and workers (8) of the last part. Needs root and the package
//! containernetworking-plugins. Times are those of whole processes, from start to exit.

use std::env;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ferrovia::kernel::netns::Namespace;
use ferrovia::kernel::rtnetlink::{Network, link};
use serde_json::{Value, json};

const OURS: &str = env!("CARGO_BIN_EXE_ferrovia-cni");
const DEBIAN: &str = "/usr/lib/cni";

struct Plugin {
    name: &'static str,
    program: String,
    config: Value,
    /// How many it has had, for their ids.
    pods: AtomicUsize,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<usize> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, or| arguments.get(at).copied().unwrap_or(or);
    let directory = tempfile::tempdir()?;
    let node = Namespace::new()?;
    for line in [
        "link set lo up",
        "link add uplink type veth peer name elsewhere",
        "address add 192.0.2.1/24 dev uplink",
        "link set uplink up",
    ] {
        ip(&node, line)?;
    }
    let plugins = [ours(directory.path()), debians(directory.path())];
    let mut medians = Vec::new();
    one_by_one(&node, &plugins, number(0, 200), &mut medians)?;
    for (verb, pair) in ["ADD", "DEL"].iter().zip(medians.chunks(2)) {
        println!("{verb}: {:.2} x as fast", pair[1].as_secs_f64() / pair[0].as_secs_f64());
    }
    start_up(&node)?;
    links(&node)?;
    plugins.iter().try_for_each(|plugin| at_once(&node, plugin, number(1, 250), number(2, 8)))
}

fn ours(directory: &Path) -> Plugin {
    let config = json!({
        "cniVersion": "1.0.0", "name": "ours", "type": "ferrovia-cni", "dataDir": directory.join("ours"),
        "ranges": ["10.244.0.0/22", "fd00:244::/64"],
    });
    Plugin { name: "ferrovia-cni", program: OURS.into(), config, pods: AtomicUsize::new(0) }
}

fn debians(directory: &Path) -> Plugin {
    let config = json!({
        "cniVersion": "1.0.0", "name": "theirs", "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": directory.join("theirs"),
            "ranges": [[{"subnet": "10.245.0.0/22"}], [{"subnet": "fd00:245::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    });
    let program = format!("{DEBIAN}/bridge");
    Plugin { name: "bridge + host-local", program, config, pods: AtomicUsize::new(0) }
}

/// One attachment of each in turn, so that both meet the same machine.
fn one_by_one(
    node: &Namespace,
    plugins: &[Plugin; 2],
    count: usize,
    medians: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    let mut times = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..count {
        for (plugin, [adds, dels]) in plugins.iter().zip(&mut times) {
            let pod = Namespace::new()?;
            let id = plugin.next_id();
            let (result, added) = plugin.call(node, "ADD", &id, &pod, None)?;
            let (_, deleted) = plugin.call(node, "DEL", &id, &pod, Some(result))?;
            adds.push(added);
            dels.push(deleted);
        }
    }
    for verb in 0..2 {
        for (plugin, times) in plugins.iter().zip(&mut times) {
            let times = &mut times[verb];
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100];
            println!(
                "{} {:20} median {:6.2} ms, 90 % {:6.2} ms, 99 % {:6.2} ms",
                ["ADD", "DEL"][verb],
                plugin.name,
                milliseconds(at(50)),
                milliseconds(at(90)),
                milliseconds(at(99)),
            );
            medians.push(at(50));
        }
    }
    Ok(())
}

/// What a process costs that does nothing.
fn start_up(node: &Namespace) -> anyhow::Result<()> {
    for program in [OURS.to_owned(), format!("{DEBIAN}/bridge")] {
        let mut times = Vec::new();
        for _ in 0..100 {
            times
                .push(run(node, &program, &[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.0.0"}))?.1);
        }
        times.sort_unstable();
        let size = std::fs::metadata(&program)?.len() / 1024;
        println!("VERSION {program}: median {:.2} ms, {size} KiB", milliseconds(times[50]));
    }
    Ok(())
}

/// What the kernel itself takes for a pair as the plugin makes it: until nobody finds it any more, and until `RTM_DELLINK`
/// returns.
fn links(node: &Namespace) -> anyhow::Result<()> {
    let (mut unseen, mut returned) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let pod = Namespace::new()?;
        unseen.push(node.run(|| -> anyhow::Result<Duration> {
            let mut network = pair(&pod)?;
            let start = Instant::now();
            network.delete_link("bare")?;
            Ok(start.elapsed())
        })??);
        returned.push(node.run(|| -> anyhow::Result<Duration> {
            let mut network = pair(&pod)?;
            let link = network.link("bare")?;
            let start = Instant::now();
            network.apply([link::delete(link)])?;
            Ok(start.elapsed())
        })??);
    }
    for (what, mut times) in [("until it is unseen", unseen), ("until RTM_DELLINK returns", returned)] {
        times.sort_unstable();
        let (median, most) = (times[times.len() / 2], times[times.len() * 9 / 10]);
        println!(
            "a pair alone, {what}: median {:.2} ms, 90 % {:.2} ms",
            milliseconds(median),
            milliseconds(most)
        );
    }
    Ok(())
}

/// In the namespace of the caller and in that of a pod.
fn pair(pod: &Namespace) -> anyhow::Result<Network> {
    let mut network = Network::open()?;
    let link = network.add_veth("bare", "eth0", pod.as_fd())?;
    network.up(link)?;
    pod.run(|| -> anyhow::Result<()> {
        let mut network = Network::open()?;
        let link = network.link("eth0")?;
        Ok(network.up(link)?)
    })??;
    Ok(network)
}

/// All pods by so many workers, and all of them away again.
fn at_once(node: &Namespace, plugin: &Plugin, count: usize, workers: usize) -> anyhow::Result<()> {
    let pods: Vec<Namespace> = (0..count).map(|_| Namespace::new()).collect::<Result<_, _>>()?;
    let add = |index: usize| Ok(plugin.call(node, "ADD", &format!("m{index}"), &pods[index], None)?.0);
    let (results, added) = spread(count, workers, &add)?;
    let mut addresses: Vec<String> = results.iter().map(|result| result["ips"].to_string()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() != count {
        bail!("{}: {count} pods have {} addresses", plugin.name, addresses.len());
    }
    let del = |index: usize| {
        let result = Some(results[index].clone());
        Ok(plugin.call(node, "DEL", &format!("m{index}"), &pods[index], result)?.0)
    };
    let (_, deleted) = spread(count, workers, &del)?;
    println!(
        "{}: {count} pods by {workers} workers: attached in {:.2} s, detached in {:.2} s, no failure, no duplicate",
        plugin.name,
        added.as_secs_f64(),
        deleted.as_secs_f64(),
    );
    Ok(())
}

fn spread(
    count: usize,
    workers: usize,
    work: &(dyn Fn(usize) -> anyhow::Result<Value> + Sync),
) -> anyhow::Result<(Vec<Value>, Duration)> {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let take = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(done);
            }
            done.push((index, work(index)?));
        }
    };
    let parts: Vec<anyhow::Result<Vec<(usize, Value)>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(take)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let elapsed = start.elapsed();
    let mut all: Vec<(usize, Value)> = parts.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok((all.into_iter().map(|(_, value)| value).collect(), elapsed))
}

impl Plugin {
    fn next_id(&self) -> String {
        format!("c{}", self.pods.fetch_add(1, Ordering::Relaxed))
    }

    fn call(
        &self,
        node: &Namespace,
        command: &str,
        id: &str,
        pod: &Namespace,
        result: Option<Value>,
    ) -> anyhow::Result<(Value, Duration)> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd());
        let mut config = self.config.clone();
        if let Some(result) = result {
            config["prevResult"] = result;
        }
        let variables =
            [("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", &path)];
        run(node, &self.program, &variables, &config)
    }
}

fn run(
    node: &Namespace,
    program: &str,
    variables: &[(&str, &str)],
    config: &Value,
) -> anyhow::Result<(Value, Duration)> {
    let mut command = node.command(program)?;
    command.env("CNI_PATH", DEBIAN).envs(variables.iter().copied());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever is asked for its version need not read to the end.
        let _ = write!(stdin, "{config}");
    }
    let output = child.wait_with_output()?;
    let elapsed = start.elapsed();
    if !output.status.success() {
        bail!("{program} {variables:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok((serde_json::from_slice(&output.stdout).unwrap_or_default(), elapsed))
}

fn ip(node: &Namespace, line: &str) -> anyhow::Result<()> {
    let command: &mut Command = &mut node.command("ip")?;
    if command.args(line.split(' ')).status()?.success() { Ok(()) } else { bail!("ip {line}") }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
