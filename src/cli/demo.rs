//! `ferrovia demo`: the program at work, on a machine without a cluster.

mod pods;
mod screen;
mod script;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::kernel::netns;
use crate::lab::proxy::{Proxy, write_manifest};
use crate::lab::{Lab, LabError};
use crate::model::Family;
use screen::Screen;
use script::{SCENES, Scene};
use traffic::{STREAMS, Stage, Traffic};

const FRAME: Duration = Duration::from_millis(100);
const START: Duration = Duration::from_secs(20);

/// Makes a node, pods and a client of network namespaces, runs the proxy on example manifests, and sends real traffic
/// through a ClusterIP, a NodePort and a Service with session affinity while endpoints come and go. Nothing outside its
/// namespaces is touched. Without root, it uses a user namespace.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The proxy mode to show
    #[arg(long, default_value = "iptables")]
    mode: String,
    /// Shows the pod network instead, on as many nodes of one segment: pods that reach each other and are seen as they are
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: Option<u8>,
    /// How many seconds to go on: four scenes, each long enough for a change to settle
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(8..=3600))]
    duration: u64,
    /// The program that is run as `PROGRAM proxy` instead of this one
    #[arg(long, hide = true, default_value = "/proc/self/exe")]
    program: PathBuf,
    /// More flags for the proxy
    #[arg(last = true)]
    flags: Vec<String>,
}

/// To be called before the process has any other thread, see [`netns::become_able`].
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    netns::become_able()?;
    let interrupted = hear_signals()?;
    if let Some(nodes) = arguments.nodes {
        return pods::run(nodes, arguments, &interrupted);
    }
    let lab = Lab::new().context("cannot set up the lab")?;
    let mut proxy = start_proxy(&lab, arguments)?;
    println!(
        "ferrovia demo: mode {}, in namespaces of its own: nodes here and elsewhere, their pods, a client\n",
        arguments.mode
    );
    let total = Duration::from_secs(arguments.duration);
    let success = play(&lab, &mut proxy, total, &interrupted)?;
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start_proxy(lab: &Lab, arguments: &Arguments) -> Result<Proxy, LabError> {
    write_manifest(lab, "node.yaml", script::NODES)?;
    write_manifest(lab, "services.yaml", script::SERVICES)?;
    write_manifest(lab, "endpoints.yaml", script::ENDPOINTS)?;
    let flags =
        ["--proxy-mode", &arguments.mode].into_iter().chain(arguments.flags.iter().map(String::as_str));
    let mut proxy = Proxy::start(lab, &arguments.program, flags)?;
    proxy.wait_until_healthy(lab, START)?;
    Ok(proxy)
}

/// Plays all scenes and says whether every request went as it should.
fn play(lab: &Lab, proxy: &mut Proxy, total: Duration, interrupted: &AtomicBool) -> anyhow::Result<bool> {
    let start = Instant::now();
    let traffic = Traffic::new(lab, Stage::new(&SCENES[0], start));
    let mut screen = Screen::of_stdout();
    thread::scope(|scope| {
        for (index, stream) in STREAMS.iter().enumerate() {
            let traffic = &traffic;
            scope.spawn(move || traffic.run(stream, index));
        }
        let played = play_scenes(lab, proxy, &traffic, &mut screen, total, interrupted);
        traffic.stop();
        played
    })?;
    let tallies = traffic.tallies();
    screen.finish(&tallies)?;
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(screen::is_success(&tallies))
}

fn play_scenes(
    lab: &Lab,
    proxy: &mut Proxy,
    traffic: &Traffic<'_>,
    screen: &mut Screen,
    total: Duration,
    interrupted: &AtomicBool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    for (scene, end) in SCENES.iter().zip(1u32..) {
        let end = start + total * end / SCENES.len() as u32;
        set(lab, traffic, scene)?;
        screen.scene(start.elapsed(), scene.title)?;
        while Instant::now() < end {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(());
            }
            if !proxy.is_running() {
                bail!("the proxy ended. Its last words:\n{}", proxy.log());
            }
            screen.frame(start.elapsed(), total, scene.title, &traffic.tallies())?;
            thread::sleep(FRAME);
        }
    }
    Ok(())
}

fn set(lab: &Lab, traffic: &Traffic<'_>, scene: &'static Scene) -> Result<(), LabError> {
    let address_of = |pod: &str, family| {
        let host = lab.hosts().iter().find(|host| host.name == pod)?;
        host.addresses.iter().copied().find(|address| Family::of(*address) == family)
    };
    let endpoints = script::endpoints(scene, address_of);
    traffic.set_scene(scene, Instant::now());
    write_manifest(lab, "endpoints.yaml", &endpoints)
}

/// Set by Ctrl-C and SIGTERM, so that everything is dropped in order.
fn hear_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let heard = Arc::clone(&interrupted);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        heard.store(true, Ordering::Relaxed);
    });
    Ok(interrupted)
}
