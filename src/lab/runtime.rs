//! A container runtime, as far as it concerns the networks of pods: it reads the network configuration of a node and runs the
//! plugins that are named there, as libcni does.
//!
//! Each plugin of the list is called in its turn, with the result of the one before as `prevResult`; DEL goes the other way.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};

use super::LabError;
use crate::kernel::netns::Namespace;

/// The name that a pod's interface gets.
pub const INTERFACE: &str = "eth0";
/// The newest version of the specification that is known here: runtimes use the newest one that both sides know.
const NEWEST: &str = "1.1.0";
/// Plugins are run with this and nothing else of the environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What goes wrong between a runtime and its plugins.
#[derive(Debug, thiserror::Error)]
pub enum CniFailure {
    #[error("there is no network configuration in {0}")]
    NoConfiguration(String),
    #[error("cannot use the network configuration {path}")]
    Configuration { path: String, source: io::Error },
    #[error("cannot run the plugin {plugin}")]
    Run { plugin: String, source: io::Error },
    #[error("{command}: the plugin {plugin} says nothing that can be understood: {said}")]
    Unintelligible { command: &'static str, plugin: String, said: String },
    #[error("{command} of {plugin} failed with code {code}: {message}")]
    Refused { command: &'static str, plugin: String, code: u64, message: String },
}

impl CniFailure {
    /// That a plugin answered with.
    pub fn code(&self) -> Option<u64> {
        match self {
            CniFailure::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The runtime of one node.
pub struct Runtime<'a> {
    pub node: &'a Namespace,
    /// Where its network configurations are, and where plugins are.
    pub configurations: &'a Path,
    pub plugins: &'a Path,
}

/// What a runtime knows of a pod when it asks for a network.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    pub id: &'a str,
    pub namespace: &'a Namespace,
    /// What the pod wants of each capability that a plugin may have, as in `runtimeConfig`.
    pub capabilities: &'a Value,
}

/// A network configuration list.
struct List {
    name: Value,
    version: Value,
    plugins: Vec<Value>,
}

impl Runtime<'_> {
    /// Gives the pod its network, and returns the result of the last plugin.
    pub fn add(&self, container: Container<'_>) -> Result<Value, LabError> {
        let list = self.list()?;
        let mut result = Value::Null;
        for plugin in &list.plugins {
            result = self.call("ADD", &list, plugin, Some(container), &result)?;
        }
        Ok(result)
    }

    /// With the result of ADD, if there was one.
    pub fn del(&self, container: Container<'_>, result: &Value) -> Result<(), LabError> {
        let list = self.list()?;
        for plugin in list.plugins.iter().rev() {
            self.call("DEL", &list, plugin, Some(container), result)?;
        }
        Ok(())
    }

    pub fn check(&self, container: Container<'_>, result: &Value) -> Result<(), LabError> {
        let list = self.list()?;
        for plugin in &list.plugins {
            self.call("CHECK", &list, plugin, Some(container), result)?;
        }
        Ok(())
    }

    pub fn status(&self) -> Result<(), LabError> {
        let list = self.list()?;
        for plugin in &list.plugins {
            self.call("STATUS", &list, plugin, None, &Value::Null)?;
        }
        Ok(())
    }

    /// Lets plugins remove whatever belongs to no container of these.
    pub fn gc(&self, valid: &[&str]) -> Result<(), LabError> {
        let valid: Vec<Value> =
            valid.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
        let list = self.list()?;
        for plugin in &list.plugins {
            let mut plugin = plugin.clone();
            plugin["cni.dev/valid-attachments"] = json!(valid);
            self.call("GC", &list, &plugin, None, &Value::Null)?;
        }
        Ok(())
    }

    fn list(&self) -> Result<List, LabError> {
        Ok(self.node.run(|| List::read(self.configurations))??)
    }

    fn call(
        &self,
        command: &'static str,
        list: &List,
        plugin: &Value,
        container: Option<Container<'_>>,
        previous: &Value,
    ) -> Result<Value, LabError> {
        let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
        let failed = |source| CniFailure::Run { plugin: kind.clone(), source };
        let mut program = self.node.command(self.plugins.join(&kind)).map_err(failed)?;
        program.env_clear().env("PATH", PATH).env("CNI_PATH", self.plugins).env("CNI_COMMAND", command);
        let mut config = plugin.clone();
        config["name"] = list.name.clone();
        config["cniVersion"] = list.version.clone();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        if let Some(container) = container {
            container.describe(&mut program);
            config["runtimeConfig"] = Value::Object(wanted(plugin, container.capabilities));
        }
        let output = feed(&mut program, &config).map_err(failed)?;
        Ok(understand(command, kind, &output)?)
    }
}

impl Container<'_> {
    fn describe(&self, program: &mut Command) {
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_fd().as_raw_fd());
        program.env("CNI_CONTAINERID", self.id).env("CNI_IFNAME", INTERFACE).env("CNI_NETNS", namespace);
        let pod = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.id);
        program.env("CNI_ARGS", pod);
    }
}

impl List {
    /// The first one by name.
    fn read(directory: &Path) -> Result<Self, CniFailure> {
        let named = directory.display().to_string();
        let listed = fs::read_dir(directory).map_err(|_| CniFailure::NoConfiguration(named.clone()))?;
        let paths = listed.filter_map(Result::ok).map(|entry| entry.path());
        let first = paths.filter(|path| path.extension().is_some_and(|kind| kind == "conflist")).min();
        let path = first.ok_or(CniFailure::NoConfiguration(named))?;
        let failed = |source| CniFailure::Configuration { path: path.display().to_string(), source };
        let text = fs::read(&path).map_err(failed)?;
        let list: Value = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        Ok(List { name: list["name"].clone(), version: version(&list), plugins })
    }
}

/// The newest one of the list that is known here, or the one for runtimes that know no lists.
fn version(list: &Value) -> Value {
    let known = list["cniVersions"].as_array().map_or(&[][..], |versions| versions);
    let known = known.iter().chain([&list["cniVersion"]]).filter_map(Value::as_str);
    json!(known.filter(|version| number(version) <= number(NEWEST)).max_by_key(|version| number(version)))
}

fn number(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// What the pod wants of what the plugin says it can do.
fn wanted(plugin: &Value, capabilities: &Value) -> Map<String, Value> {
    let wanted = capabilities.as_object().cloned().unwrap_or_default();
    wanted.into_iter().filter(|(name, _)| plugin["capabilities"][name] == true).collect()
}

fn feed(program: &mut Command, config: &Value) -> io::Result<Output> {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        write!(stdin, "{config}")?;
    }
    child.wait_with_output()
}

fn understand(command: &'static str, plugin: String, output: &Output) -> Result<Value, CniFailure> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let parsed: Option<Value> =
        if said.trim().is_empty() { Some(Value::Null) } else { serde_json::from_str(&said).ok() };
    match (output.status.success(), parsed) {
        (true, Some(result)) => Ok(result),
        (false, Some(Value::Object(error))) => {
            let text = |field: &str| error.get(field).and_then(Value::as_str).unwrap_or_default();
            let code = error.get("code").and_then(Value::as_u64).unwrap_or_default();
            let message = format!("{} {}", text("msg"), text("details"));
            Err(CniFailure::Refused { command, plugin, code, message })
        }
        _ => {
            let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
            Err(CniFailure::Unintelligible { command, plugin, said })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_used() {
        let of = |list: Value| version(&list);
        assert_eq!(of(json!({"cniVersion": "1.0.0"})), "1.0.0");
        assert_eq!(of(json!({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"]})), "1.1.0");
        assert_eq!(of(json!({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.10.0"]})), "1.0.0");
    }

    #[test]
    fn plugins_get_what_they_say_they_can_do() {
        let plugin = json!({"type": "p", "capabilities": {"portMappings": true, "mac": false}});
        let wanted = wanted(&plugin, &json!({"portMappings": [], "mac": "02::", "bandwidth": {}}));
        assert_eq!(Value::Object(wanted), json!({"portMappings": []}));
    }
}
