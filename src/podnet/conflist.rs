//! What container runtimes read: the network configuration, and the plugin that it names.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::json;

use super::files::{self, Lifetime};

/// Runtimes take the first one by name.
pub const FILE: &str = "10-ferrovia.conflist";
pub const PLUGIN: &str = "ferrovia-cni";
/// Where runtimes look for configurations, unless they are told otherwise.
pub const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// What the plugin is told of the node. Below `/run`, so that a boot forgets it.
pub const STATE: &str = "/run/ferrovia/pod-network.json";
const NETWORK: &str = "ferrovia";
/// For runtimes that know no list of versions, which came with 1.1.0.
const CNI_VERSION: &str = "1.0.0";
const CNI_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

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
        "stateFile": places.state,
        "capabilities": {"portMappings": true, "bandwidth": true, "mac": true},
    });
    if let Some(mtu) = links.mtu {
        plugin["mtu"] = json!(mtu);
    }
    let list = json!({
        "cniVersion": CNI_VERSION,
        "cniVersions": CNI_VERSIONS,
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

/// Takes away what was written here. The plugin stays: pods that are there have to be detached by it.
pub fn remove(configurations: &Path, state: &Path) -> Result<(), ConflistError> {
    for path in [configurations.join(FILE), state.to_owned()] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ConflistError::Remove { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Puts the plugin where the runtime looks for it. By rename, as one that runs cannot be written to (`ETXTBSY`) and one
/// that is half there must not be run.
pub fn install(places: &Places) -> Result<(), ConflistError> {
    let to = places.installed();
    let Some(from) = &places.plugin else {
        return if to.exists() { Ok(()) } else { Err(ConflistError::NoPlugin(to)) };
    };
    if !from.exists() {
        return Err(ConflistError::NoPlugin(from.clone()));
    }
    copy(from, &to).map_err(|source| ConflistError::Install { from: from.clone(), to, source })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(from)?;
    if fs::read(to).is_ok_and(|before| before == content) {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    // Hidden, as runtimes take any file here for a plugin.
    let draft = to.with_file_name(format!(".{PLUGIN}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&draft)?;
    let written =
        file.write_all(&content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&draft, to));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
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
        assert!(matches!(install(&places), Err(ConflistError::NoPlugin(path)) if path == from));
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        fs::copy("/bin/sleep", &from).unwrap();
        install(&places).unwrap();
        let installed = places.installed();
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
        let mut running = std::process::Command::new(&installed).arg("60").spawn().unwrap();
        fs::copy("/bin/true", &from).unwrap();
        install(&places).unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(fs::read(&installed).unwrap(), fs::read(&from).unwrap());
        assert_eq!(fs::read_dir(&places.plugins).unwrap().count(), 1, "no other file is left");
    }
}
