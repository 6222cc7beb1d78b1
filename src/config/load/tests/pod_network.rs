//! The options of the pod network.

use super::*;
use crate::config::PodNetwork;

#[test]
fn is_off_unless_asked_for() {
    assert_eq!(from_flags("").unwrap().pod_network, None);
    assert_eq!(from_flags("--pod-network=none").unwrap().pod_network, None);
    let unused = from_flags("--non-masquerade-cidrs=10.0.0.0/8").unwrap();
    assert!(unused.warnings.iter().any(|warning| warning.contains("no effect without --pod-network")));
}

#[test]
fn every_flag_has_its_effect() {
    let expected = PodNetwork {
        non_masquerade: vec![],
        cni_conf_dir: "/etc/cni/net.d".into(),
        cni_bin_dir: "/opt/cni/bin".into(),
        cni_plugin: None,
        cni_data_dir: "/var/lib/cni/ferrovia".into(),
    };
    assert_eq!(from_flags("--pod-network=host-gw").unwrap().pod_network, Some(expected));
    let line = "--pod-network=host-gw --non-masquerade-cidrs=192.168.1.1/16,fd09::/16 --cni-conf-dir=/a --cni-bin-dir=/b \
                --cni-plugin=/c/plugin --cni-data-dir=/d";
    let expected = PodNetwork {
        non_masquerade: networks(&["192.168.0.0/16", "fd09::/16"]),
        cni_conf_dir: "/a".into(),
        cni_bin_dir: "/b".into(),
        cni_plugin: Some("/c/plugin".into()),
        cni_data_dir: "/d".into(),
    };
    assert_eq!(from_flags(line).unwrap().pod_network, Some(expected.clone()));
    let own = "apiVersion: ferrovia.dev/v1alpha1\nkind: FerroviaConfiguration\npodNetwork: host-gw\n\
               nonMasqueradeCIDRs: [192.168.0.0/16, 'fd09::/16']\ncniConfDir: /a\ncniBinDir: /b\ncniPlugin: /c/plugin\ncniDataDir: /d";
    let both = format!("mode: iptables\n---\n{own}");
    assert_eq!(from_file(&both, "").unwrap().pod_network, Some(expected));
}

#[test]
fn all_that_cannot_be_is_told_together() {
    let line =
        "--pod-network=vxlan --non-masquerade-cidrs=10.0.0.0/33 --cni-conf-dir=net.d --cni-bin-dir=bin";
    let problems = from_flags(line).unwrap_err();
    assert_eq!(problems.0.len(), 4, "{problems}");
    assert!(problems.to_string().contains("must be host-gw or none"), "{problems}");
}
