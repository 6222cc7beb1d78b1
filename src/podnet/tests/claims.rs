use super::*;

fn owner(claims: &Claims, network: &str) -> Option<String> {
    claims.owner(network.parse().unwrap()).map(|owner| owner.to_string())
}

fn set(claims: &mut Claims, name: &str, created: i64, networks: &[&str]) {
    let peer = Peer::from(&node(name, created, &[], networks));
    let seen = nodes::Seen { peer: &peer, presence: nodes::Presence::There };
    claims.set(&peer.name, Some(seen));
}

#[test]
fn a_refused_network_is_in_nobodys_way() {
    let mut claims = Claims::default();
    set(&mut claims, "young", 3, &["10.244.2.0/24"]);
    set(&mut claims, "greedy", 2, &["10.244.0.0/16"]);
    assert_eq!(owner(&claims, "10.244.0.0/16").as_deref(), Some("greedy"));
    assert_eq!(owner(&claims, "10.244.2.0/24"), None);
    set(&mut claims, "old", 1, &["10.244.1.0/24"]);
    assert_eq!(owner(&claims, "10.244.0.0/16"), None, "it overlaps an older one's");
    assert_eq!(owner(&claims, "10.244.2.0/24").as_deref(), Some("young"), "which frees what it took");
    claims.set(&Arc::from("greedy"), None);
    assert_eq!(claims.clashes().count(), 0);
}

#[test]
fn networks_of_one_node_may_overlap() {
    let mut claims = Claims::default();
    set(&mut claims, "a", 1, &["10.244.0.0/16", "10.244.1.0/24"]);
    assert_eq!(claims.clashes().count(), 0);
    assert_eq!(claims.owners().count(), 2);
}

#[test]
fn of_the_same_age_the_uid_decides() {
    let mut claims = Claims::default();
    set(&mut claims, "b", 1, &["fd00:244::/64"]);
    set(&mut claims, "a", 1, &["fd00:244::/64"]);
    assert_eq!(owner(&claims, "fd00:244::/64").as_deref(), Some("a"), "a-1 is before b-1");
}
