//! What container runtimes read: the network configuration, and the plugin that it names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::json;

use super::cni::Version;
use super::files::{self, Lifetime};

/// Runtimes take the first one by name.
pub const FILE: &str = "10-ferrovia.conflist";
pub const PLUGIN: &str = "ferrovia-cni";
/// Where runtimes look for configurations, unless they are told otherwise.
pub const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Where runtimes look for plugins, likewise.
pub const PLUGINS: &str = "/opt/cni/bin";
/// What the plugin is told of the node. Below `/run`, so that a boot forgets it.
pub const STATE: &str = "/run/ferrovia/pod-network.json";
pub const NETWORK: &str = "ferrovia";
/// What is compared at a time, in bytes.
const BLOCK: usize = 64 << 10;
/// For runtimes that know no list of versions, which came with 1.1.0. They refuse results of a version that they do not know;
/// 1.0.0 is known to containerd since 1.6, CRI-O since 1.23 and podman since 4.0. Others take the newest one that they know
/// from the list, which gives containerd 2.0 STATUS and GC.
const WITHOUT_LIST: Version = Version::V1_0_0;

#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("cannot install the CNI plugin {from} as {to}")]
    Install { from: PathBuf, to: PathBuf, source: io::Error },
    #[error("there is no CNI plugin at {0}")]
    NoPlugin(PathBuf),
}

/// Where things of the node are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Of network configurations, as the runtime is told.
    pub configurations: PathBuf,
    /// Of plugins, as the runtime is told.
    pub plugins: PathBuf,
    /// The plugin to be installed; `None` where somebody else does that.
    pub plugin: Option<PathBuf>,
    /// Where the plugin keeps which pod has which addresses.
    pub leases: PathBuf,
    /// What the plugin is told of the node. Below `/run`, so that a boot forgets it.
    pub state: PathBuf,
}

impl Places {
    fn conflist(&self) -> PathBuf {
        self.configurations.join(FILE)
    }

    fn installed(&self) -> PathBuf {
        self.plugins.join(PLUGIN)
    }
}

/// What pods get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLinks {
    /// Networks to take addresses from.
    pub ranges: Vec<IpNet>,
    /// In bytes; `None` where the node's own is not known.
    pub mtu: Option<u32>,
}

/// The configuration as text.
pub fn render(links: &PodLinks, places: &Places) -> String {
    let mut plugin = json!({
        "type": PLUGIN,
        "ranges": links.ranges.iter().map(IpNet::to_string).collect::<Vec<_>>(),
        "dataDir": places.leases,
        "stateFile": places.state,
        "capabilities": {"portMappings": true, "bandwidth": true, "mac": true},
    });
    if let Some(mtu) = links.mtu {
        plugin["mtu"] = json!(mtu);
    }
    let list = json!({
        "cniVersion": WITHOUT_LIST.as_str(),
        "cniVersions": Version::ALL.map(Version::as_str),
        "name": NETWORK,
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

/// Replaces the configuration, if it says something else.
pub fn write(links: &PodLinks, places: &Places) -> Result<(), ConflistError> {
    let (path, text) = (places.conflist(), render(links, places));
    if fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    fs::create_dir_all(&places.configurations)
        .and_then(|()| files::replace(&path, text.as_bytes(), Lifetime::Disk))
        .map_err(|source| ConflistError::Write { path, source })
}

/// Takes away what was written here, but for the plugin.
pub fn remove(configurations: &Path, state: &Path) -> Result<(), ConflistError> {
    remove_file(configurations.join(FILE))?;
    remove_file(state.to_owned())
}

/// Takes the plugin away, unless that is the one beside this program: somebody has installed both there.
pub fn uninstall(plugins: &Path) -> Result<(), ConflistError> {
    let installed = plugins.join(PLUGIN);
    let beside = beside_this_program().and_then(|plugin| Fingerprint::of(&plugin).ok());
    match Fingerprint::of(&installed) {
        Ok(found) if beside == Some(found) => Ok(()),
        _ => remove_file(installed),
    }
}

/// Done where there is none.
fn remove_file(path: PathBuf) -> Result<(), ConflistError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ConflistError::Remove { path, source })
        }
        _ => Ok(()),
    }
}

/// Where the plugin comes from, unless the operator says something else.
pub fn beside_this_program() -> Option<PathBuf> {
    std::env::current_exe().ok().map(|program| program.with_file_name(PLUGIN))
}

/// Puts the plugin where the runtime looks for it, whenever it is not there or another one.
#[derive(Debug, Default)]
pub struct Installer {
    /// Two files that were found to be the same.
    same: Option<[Fingerprint; 2]>,
}

/// By which a file that was written or exchanged is told without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Installer {
    pub fn install(&mut self, places: &Places) -> Result<(), ConflistError> {
        let to = places.installed();
        let Some(from) = &places.plugin else {
            return if to.exists() { Ok(()) } else { Err(ConflistError::NoPlugin(to)) };
        };
        if !from.exists() {
            return Err(ConflistError::NoPlugin(from.clone()));
        }
        let installed = self.put(from, &to);
        installed.map_err(|source| ConflistError::Install { from: from.clone(), to, source })
    }

    fn put(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let found = || Ok::<_, io::Error>([Fingerprint::of(from)?, Fingerprint::of(to)?]);
        if self.same.is_some() && self.same == found().ok() {
            return Ok(());
        }
        if !is_same(from, to).unwrap_or_default() {
            copy(from, to)?;
        }
        self.same = Some(found()?);
        Ok(())
    }
}

impl Fingerprint {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        let modified = (file.mtime(), file.mtime_nsec());
        Ok(Fingerprint { device: file.dev(), inode: file.ino(), length: file.len(), modified })
    }
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if other.metadata()?.len() != left {
        return Ok(false);
    }
    let mut buffers = [vec![0; BLOCK], vec![0; BLOCK]];
    while left > 0 {
        let [a, b] = &mut buffers;
        let length = left.min(BLOCK as u64) as usize;
        one.read_exact(&mut a[..length])?;
        other.read_exact(&mut b[..length])?;
        if a[..length] != b[..length] {
            return Ok(false);
        }
        left -= length as u64;
    }
    Ok(true)
}

/// By rename, as a program that runs cannot be written to (`ETXTBSY`) and one that is half there must not be run.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    // Hidden, as runtimes take any file here for a plugin.
    let draft = to.with_file_name(format!(".{PLUGIN}.new"));
    let written = fill(&draft, from).and_then(|()| fs::rename(&draft, to));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

fn fill(draft: &Path, from: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(draft)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            configurations: root.join("net.d"),
            plugins: root.join("bin"),
            plugin: Some(root.join("image/ferrovia-cni")),
            leases: root.join("leases"),
            state: root.join("state.json"),
        }
    }

    fn links() -> PodLinks {
        let ranges = ["10.244.1.0/24", "fd00:244:1::/64"].map(|text| text.parse().unwrap()).to_vec();
        PodLinks { ranges, mtu: Some(1450) }
    }

    #[test]
    fn the_configuration_has_what_the_plugin_reads() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        write(&links(), &places).unwrap();
        let text = fs::read_to_string(places.conflist()).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let plugin = &list["plugins"][0];
        assert_eq!((&list["name"], &plugin["type"]), (&json!("ferrovia"), &json!("ferrovia-cni")));
        assert_eq!(plugin["ranges"], json!(["10.244.1.0/24", "fd00:244:1::/64"]));
        assert_eq!((&plugin["mtu"], &plugin["stateFile"]), (&json!(1450), &json!(places.state)));
        assert_eq!(fs::read_dir(&places.configurations).unwrap().count(), 1, "no other file is left");
    }

    #[test]
    fn the_documentation_shows_it_as_it_is() {
        let readme = include_str!("README.md");
        let shown = readme.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let places =
            Places { leases: "/var/lib/cni/ferrovia".into(), state: STATE.into(), ..places(Path::new("/")) };
        let rendered = render(&PodLinks { mtu: Some(1500), ..links() }, &places);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(shown), value(&rendered));
    }

    /// Runtimes load a configuration again whenever its file changes.
    #[test]
    fn a_configuration_that_says_the_same_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        write(&links(), &places).unwrap();
        let modified = || fs::metadata(places.conflist()).unwrap().modified().unwrap();
        let before = modified();
        write(&links(), &places).unwrap();
        assert_eq!(modified(), before);
        remove(&places.configurations, &places.state).unwrap();
        remove(&places.configurations, &places.state).unwrap();
        assert!(!places.conflist().exists());
    }

    #[test]
    fn the_plugin_is_installed_while_the_old_one_runs() {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let from = places.plugin.clone().unwrap();
        let mut installer = Installer::default();
        assert!(matches!(installer.install(&places), Err(ConflistError::NoPlugin(path)) if path == from));
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        fs::copy("/bin/sleep", &from).unwrap();
        installer.install(&places).unwrap();
        let installed = places.installed();
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
        let mut running = std::process::Command::new(&installed).arg("60").spawn().unwrap();
        fs::copy("/bin/true", &from).unwrap();
        installer.install(&places).unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(fs::read(&installed).unwrap(), fs::read(&from).unwrap());
        assert_eq!(fs::read_dir(&places.plugins).unwrap().count(), 1, "no other file is left");
        let inode = || fs::metadata(&installed).unwrap().ino();
        let before = inode();
        installer.install(&places).unwrap();
        Installer::default().install(&places).unwrap();
        assert_eq!(inode(), before, "one that is the same stays");
        fs::write(&installed, "of somebody else").unwrap();
        installer.install(&places).unwrap();
        assert_eq!(fs::read(&installed).unwrap(), fs::read(&from).unwrap());
    }
}
