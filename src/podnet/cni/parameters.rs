//! The parameters of a call, which come as environment variables.

use std::path::PathBuf;

use super::error::CniError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

const COMMANDS: [(&str, Command); 6] = [
    ("ADD", Command::Add),
    ("DEL", Command::Del),
    ("CHECK", Command::Check),
    ("GC", Command::Gc),
    ("STATUS", Command::Status),
    ("VERSION", Command::Version),
];

/// Which attachment an ADD, DEL or CHECK is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub container_id: String,
    pub interface: String,
    /// DEL has to do without.
    pub namespace: Option<PathBuf>,
    /// `NAMESPACE/NAME` of the pod, if the runtime tells.
    pub pod: Option<String>,
}

/// Where variables are looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub fn command(environment: Environment<'_>) -> Result<Command, CniError> {
    let name = environment("CNI_COMMAND").unwrap_or_default();
    let found = COMMANDS.iter().find(|(known, _)| *known == name);
    found.map(|(_, command)| *command).ok_or_else(|| CniError::Environment(format!("CNI_COMMAND={name:?}")))
}

impl Parameters {
    /// Whatever is wrong is told at once.
    pub fn read(command: Command, environment: Environment<'_>) -> Result<Self, CniError> {
        let get = |name| environment(name).unwrap_or_default();
        let (container_id, interface, namespace) =
            (get("CNI_CONTAINERID"), get("CNI_IFNAME"), get("CNI_NETNS"));
        let mut wrong = Vec::new();
        if !is_container_id(&container_id) {
            wrong.push(format!("CNI_CONTAINERID={container_id:?}"));
        }
        if !is_interface_name(&interface) {
            wrong.push(format!("CNI_IFNAME={interface:?}"));
        }
        if namespace.is_empty() && command != Command::Del || namespace.contains('\n') {
            wrong.push(format!("CNI_NETNS={namespace:?}"));
        }
        if !wrong.is_empty() {
            return Err(CniError::Environment(wrong.join(", ")));
        }
        let namespace = Some(namespace).filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Parameters { container_id, interface, namespace, pod: pod(&get("CNI_ARGS")) })
    }
}

/// Alphanumeric, then also `_`, `.` and `-`. Names of networks are of the same kind.
pub fn is_container_id(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inner)
}

/// `dev_valid_name` of the kernel.
pub fn is_interface_name(text: &str) -> bool {
    let is_forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    !text.is_empty() && text.len() < 16 && text != "." && text != ".." && !text.contains(is_forbidden)
}

/// kubelet's `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;...`
fn pod(arguments: &str) -> Option<String> {
    let value = |wanted: &str| {
        let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value).find(|value| !value.is_empty())
    };
    Some(format!("{}/{}", value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: Command, pairs: &[(&str, &str)]) -> Result<Parameters, String> {
        let get = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Parameters::read(command, &get).map_err(|error| error.to_string())
    }

    #[test]
    fn a_call_of_kubelet_is_understood() {
        let arguments =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1";
        let call = [
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/a b"),
            ("CNI_ARGS", arguments),
        ];
        let parameters = read(Command::Add, &call).unwrap();
        assert_eq!(parameters.pod.as_deref(), Some("default/web-0"));
        assert_eq!(parameters.namespace.unwrap().to_str(), Some("/run/netns/a b"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_by_its_name() {
        let error =
            read(Command::Add, &[("CNI_CONTAINERID", "-c"), ("CNI_IFNAME", "an interface")]).unwrap_err();
        for name in ["CNI_CONTAINERID=\"-c\"", "CNI_IFNAME=\"an interface\"", "CNI_NETNS=\"\""] {
            assert!(error.contains(name), "{error}");
        }
        let without = [("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
        assert_eq!(read(Command::Del, &without).unwrap().namespace, None, "DEL does without");
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for good in ["eth0", "a", "fifteen-letters"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }

    #[test]
    fn commands_are_in_capitals() {
        assert_eq!(command(&|_| Some("GC".to_owned())).unwrap(), Command::Gc);
        assert!(command(&|_| Some("gc".to_owned())).is_err());
        assert!(command(&|_| None).is_err());
    }
}
