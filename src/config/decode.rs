//! A configuration file's text, decoded strictly where possible and leniently with a warning where not.

use serde::Deserialize;
use serde_json::Value;

use super::file::{
    API_VERSION, FerroviaConfiguration, KIND, KubeProxyConfiguration, OWN_API_VERSION, OWN_KIND,
};
use super::problem::DecodeError;

/// The documents of one file, and what to tell its author.
#[derive(Debug, Default, PartialEq)]
pub struct Decoded {
    pub kube_proxy: KubeProxyConfiguration,
    pub own: FerroviaConfiguration,
    pub warnings: Vec<String>,
}

/// Unknown fields and repeated keys are warnings, as they are for kube-proxy: a file for a newer one must not stop a node.
pub fn decode(text: &str) -> Result<Decoded, DecodeError> {
    let mut warnings = Vec::new();
    let (mut kube_proxy, mut own) = (None, None);
    for (index, mut document) in parse_yaml(text, &mut warnings)?.into_iter().enumerate() {
        drop_nulls(&mut document);
        match kind_of(&document) {
            (API_VERSION, KIND) => fill(&mut kube_proxy, KIND, document, &mut warnings)?,
            (OWN_API_VERSION, OWN_KIND) => fill(&mut own, OWN_KIND, document, &mut warnings)?,
            (api_version, kind) => return Err(unknown_kind(index, api_version, kind)),
        }
    }
    let kube_proxy = kube_proxy.ok_or(DecodeError::Missing { expected: KIND })?;
    Ok(Decoded { kube_proxy, own: own.unwrap_or_default(), warnings })
}

fn parse_yaml(text: &str, warnings: &mut Vec<String>) -> Result<Vec<Value>, DecodeError> {
    let strict = match serde_saphyr::from_multiple::<Value>(text) {
        Ok(documents) => return Ok(documents),
        Err(error) => error,
    };
    let lenient = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    let documents = serde_saphyr::from_multiple_with_options(text, lenient)
        .map_err(|error| DecodeError::Yaml(error.to_string()))?;
    warnings.push(format!("the configuration file repeats a key, the last one counts: {strict}"));
    Ok(documents)
}

/// For Go's decoder a null is an absent field, whatever the type: kubeadm writes `conntrack.min: null`.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn kind_of(document: &Value) -> (&str, &str) {
    let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion"), text("kind"))
}

fn unknown_kind(index: usize, api_version: &str, kind: &str) -> DecodeError {
    DecodeError::UnknownKind {
        index: index + 1,
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        known: format!("{API_VERSION} {KIND} and {OWN_API_VERSION} {OWN_KIND}"),
    }
}

fn fill<T: for<'de> Deserialize<'de>>(
    slot: &mut Option<T>,
    kind: &'static str,
    document: Value,
    warnings: &mut Vec<String>,
) -> Result<(), DecodeError> {
    if slot.is_some() {
        return Err(DecodeError::Repeated { kind });
    }
    let mut unknown = Vec::new();
    let mut note_unknown = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let deserializer = serde_ignored::Deserializer::new(document, &mut note_unknown);
    let decoded = serde_path_to_error::deserialize(deserializer).map_err(|error| DecodeError::Field {
        kind,
        path: error.path().to_string(),
        message: error.inner().to_string(),
    })?;
    if !unknown.is_empty() {
        warnings.push(format!("{kind} has unknown fields, which are ignored: {}", unknown.join(", ")));
    }
    *slot = Some(decoded);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn decode_after_head(text: &str) -> Result<Decoded, DecodeError> {
        decode(&format!("{HEAD}{text}"))
    }

    /// The ConfigMap that kubeadm writes: zeros and nulls for everything that is left to the defaults.
    #[test]
    fn takes_the_file_that_kubeadm_writes() {
        let decoded = decode_after_head(
            "bindAddress: 0.0.0.0\nclientConnection:\n  burst: 0\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  \
             qps: 0\nclusterCIDR: 10.244.0.0/16\nconfigSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\n  \
             tcpEstablishedTimeout: null\niptables:\n  masqueradeBit: null\n  minSyncPeriod: 0s\nlogging:\n  \
             flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: \"0\"\nnodePortAddresses: null\n",
        )
        .unwrap();
        assert_eq!(decoded.warnings, Vec::<String>::new());
        assert_eq!(decoded.kube_proxy.cluster_cidr.as_deref(), Some("10.244.0.0/16"));
        assert_eq!(decoded.kube_proxy.conntrack.max_per_core, None);
        assert_eq!(decoded.kube_proxy.logging.flush_frequency.as_deref(), Some("0s"));
        assert_eq!(decoded.kube_proxy.node_port_addresses, None);
    }

    #[test]
    fn a_null_section_is_an_absent_one() {
        let decoded = decode_after_head("conntrack: null\nipvs:\nfeatureGates: null\n").unwrap();
        assert_eq!(decoded.kube_proxy.conntrack, Default::default());
    }

    #[test]
    fn unknown_fields_are_named_in_a_warning() {
        let decoded = decode_after_head("iptables:\n  masquaradeAll: true\nfoo: {bar: 1}\n").unwrap();
        let [warning] = &decoded.warnings[..] else { panic!("{:?}", decoded.warnings) };
        assert!(warning.contains("iptables.masquaradeAll") && warning.contains("foo"), "{warning}");
    }

    #[test]
    fn a_repeated_key_is_a_warning_and_the_last_one_counts() {
        let decoded = decode_after_head("mode: ipvs\nmode: iptables\n").unwrap();
        assert_eq!(decoded.kube_proxy.mode.as_deref(), Some("iptables"));
        assert_eq!(decoded.warnings.len(), 1);
    }

    #[test]
    fn feature_gates_are_no_unknown_fields() {
        let decoded = decode_after_head("featureGates:\n  AllowServiceExternalIPs: true\n").unwrap();
        assert_eq!(decoded.kube_proxy.feature_gates.get("AllowServiceExternalIPs"), Some(&true));
        assert!(decoded.warnings.is_empty());
    }

    #[test]
    fn our_own_document_may_follow() {
        let decoded = decode_after_head(
            "---\napiVersion: ferrovia.dev/v1alpha1\nkind: FerroviaConfiguration\nallowedExternalIPs: [192.0.2.0/24]\n",
        )
        .unwrap();
        assert_eq!(decoded.own.allowed_external_ips, Some(vec!["192.0.2.0/24".to_owned()]));
    }

    #[test]
    fn errors_say_where() {
        let table = [
            ("oomScoreAdj: much\n", "KubeProxyConfiguration: oomScoreAdj: "),
            ("conntrack:\n  min: 1.5\n", "KubeProxyConfiguration: conntrack.min: "),
            ("logging:\n  flushFrequency: true\n", "KubeProxyConfiguration: logging.flushFrequency: "),
            ("nodePortAddresses: primary\n", "KubeProxyConfiguration: nodePortAddresses: "),
            ("mode: [\n", "it is no YAML: "),
            (&format!("---\n{HEAD}"), "it has two KubeProxyConfiguration documents"),
            (
                "---\napiVersion: v1\nkind: ConfigMap\n",
                "document 2: apiVersion \"v1\" and kind \"ConfigMap\"",
            ),
        ];
        for (text, beginning) in table {
            let error = decode_after_head(text).unwrap_err().to_string();
            assert!(error.starts_with(beginning), "{text:?}: {error}");
        }
    }

    #[test]
    fn another_version_or_an_empty_file_is_refused() {
        for text in
            ["", "apiVersion: kubeproxy.config.k8s.io/v1beta1\nkind: KubeProxyConfiguration\n", "mode: ipvs"]
        {
            assert!(decode(text).is_err(), "{text:?}");
        }
    }
}
