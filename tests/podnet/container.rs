//! What containers of any runtime have here: the host's programs as their root file system, so that no image is needed, and a
//! server that says whom it sees.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use ferrovia::kernel::netns::{Namespace, OpenedNamespace};

use super::*;

/// In the node's own `/run`. The host's `/usr` has to be mounted below it, read-only.
pub const ROOT: &str = "/run/rootfs";
/// In seconds: a container that nobody could remove ends by itself.
pub const LIFETIME: u32 = 300;
const PORT: u16 = 80;

pub fn prepare_root(node: &Namespace) {
    let prepare = || -> std::io::Result<()> {
        for directory in ["proc", "sys", "dev", "tmp", "etc", "run", "usr"] {
            fs::create_dir_all(format!("{ROOT}/{directory}"))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), format!("{ROOT}/{link}"))?;
        }
        Ok(())
    };
    node.run(prepare).unwrap().unwrap();
    // In the node's own mount namespace: crun does not bear the mixture of versions that some hosts have.
    run(node, "mount -t cgroup2 none /sys/fs/cgroup");
}

/// The network namespace of a container, by a process in it.
pub fn namespace_of(process: &str) -> OpenedNamespace {
    let path = format!("/proc/{process}/ns/net");
    OpenedNamespace::open(Path::new(&path)).unwrap().expect("it runs")
}

/// Serves on port 80 until [`stop`] asks it to end.
pub fn serve(container: &OpenedNamespace) -> JoinHandle<()> {
    let listener = container.run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            let client = client.ip().to_canonical();
            let _ = stream.write_all(client.to_string().as_bytes());
            if client.is_loopback() {
                return;
            }
        }
    })
}

pub fn stop(container: &OpenedNamespace, server: JoinHandle<()>) {
    drop(container.run(|| TcpStream::connect(("127.0.0.1", PORT))).unwrap());
    server.join().unwrap();
}

/// Whom a server says that it sees.
pub fn ask(client: &Namespace, server: SocketAddr) -> Option<String> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    client.run(asked).unwrap().ok()
}
