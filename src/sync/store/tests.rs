mod memory;

use std::time::{Duration, SystemTime};

use super::*;
use crate::sync::builders::{applied, elsewhere, here, name, node, service, service_cidr, slice};
use crate::sync::objects::EndpointSlice;

fn store(objects: impl IntoIterator<Item = Object>) -> Store {
    let mut store = crate::sync::builders::store(objects);
    store.take_changed();
    store
}

fn web() -> Service {
    service("shop/web", &["10.96.0.10"])
}

fn web_slice(slice_name: &str, address: &str) -> EndpointSlice {
    slice(slice_name, "web", vec![here(address)])
}

/// The Services that changed, as text.
fn changed(store: &mut Store) -> Vec<String> {
    store.take_changed().services.iter().map(ToString::to_string).collect()
}

fn relist(store: &mut Store, kind: Kind, objects: impl IntoIterator<Item = Object>) {
    store.handle(Event::ListStarted(kind));
    objects.into_iter().for_each(|object| store.handle(Event::Applied(object)));
    store.handle(Event::ListDone(kind));
}

fn undecodable(kind: Kind, of: &str) -> Event {
    Event::Undecodable { kind, name: Some(name(of)), error: "spec: not an object".into() }
}

#[test]
fn a1_not_done_before_services_slices_and_node_are_listed() {
    let mut store = Store::new("here".into(), SystemTime::UNIX_EPOCH);
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        assert!(!store.lists_done());
        store.handle(Event::ListStarted(kind));
        assert!(!store.lists_done());
        store.handle(Event::ListDone(kind));
    }
    assert!(store.lists_done());
    store.handle(Event::ListStarted(Kind::Service));
    assert!(store.lists_done(), "a repeated list takes nothing back");
}

/// Only the nftables mode asks for ServiceCIDRs. Its source says that it does before anything else.
#[test]
fn a1_service_cidrs_are_waited_for_only_once_their_list_has_begun() {
    let mut store = Store::new("here".into(), SystemTime::UNIX_EPOCH);
    store.handle(Event::ListStarted(Kind::ServiceCidr));
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        relist(&mut store, kind, []);
    }
    assert!(!store.lists_done());
    store.handle(Event::ListGivenUp(Kind::ServiceCidr));
    assert!(store.lists_done());
    store.handle(Event::ListStarted(Kind::ServiceCidr));
    assert!(store.lists_done(), "a list that was given up is not waited for again");
    store.handle(Event::ListDone(Kind::ServiceCidr));
    assert!(store.lists_done());
}

#[test]
fn service_cidrs_come_change_and_go() {
    let networks = |store: &Store| store.service_networks().map(|net| net.to_string()).collect::<Vec<_>>();
    let mut store = store([service_cidr("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]).into()]);
    assert_eq!(networks(&store), ["10.96.0.0/16", "fd00:10:96::/112"]);
    store.handle(applied(service_cidr("more", &["10.97.0.0/16"])));
    assert!(store.take_changed().service_cidrs);
    store.handle(applied(service_cidr("more", &["10.97.0.0/16"])));
    assert!(store.take_changed().is_empty(), "it says nothing new");
    store.handle(Event::ListStarted(Kind::ServiceCidr));
    store.handle(Event::ListGivenUp(Kind::ServiceCidr));
    assert_eq!(networks(&store).len(), 3, "a list that was not done tells of nothing gone");
    store.handle(Event::ListStarted(Kind::ServiceCidr));
    store.handle(undecodable(Kind::ServiceCidr, "more"));
    store.handle(Event::ListDone(Kind::ServiceCidr));
    assert_eq!(networks(&store), ["10.97.0.0/16"], "what cannot be read any more is as it was");
    store.handle(Event::Deleted(Kind::ServiceCidr, name("more")));
    assert!(store.take_changed().service_cidrs && networks(&store).is_empty());
}

#[test]
fn an_end_of_a_list_that_never_began_is_no_list() {
    let mut store = Store::new("here".into(), SystemTime::UNIX_EPOCH);
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        store.handle(Event::ListDone(kind));
    }
    assert!(!store.lists_done());
}

#[test]
fn an_object_changes_its_service_once_and_only_if_it_says_something_new() {
    let mut store = store([]);
    store.handle(applied(web()));
    store.handle(applied(web_slice("shop/web-1", "10.244.1.5")));
    assert_eq!(changed(&mut store), ["shop/web"]);
    store.handle(applied(web()));
    store.handle(applied(web_slice("shop/web-1", "10.244.1.5")));
    assert!(store.take_changed().is_empty());
    store.handle(applied(web_slice("shop/web-1", "10.244.1.6")));
    assert_eq!(changed(&mut store), ["shop/web"]);
}

#[test]
fn order_of_endpoints_and_ports_is_what_the_slice_says() {
    let both = |first: &str, second: &str| slice("shop/web-1", "web", vec![here(first), here(second)]);
    let mut store = store([both("10.244.1.5", "10.244.1.6").into()]);
    store.handle(applied(both("10.244.1.6", "10.244.1.5")));
    // Another order costs one compile, which finds nothing to do; looking for that here would cost every update more.
    assert_eq!(changed(&mut store), ["shop/web"]);
}

#[test]
fn y16_same_name_in_two_namespaces() {
    let mut store = store([web().into(), web_slice("shop/web-1", "10.244.1.5").into()]);
    store.handle(applied(service("bank/web", &["10.96.0.11"])));
    store.handle(applied(web_slice("bank/web-1", "10.244.1.6")));
    assert_eq!(changed(&mut store), ["bank/web"]);
    store.handle(Event::Deleted(Kind::EndpointSlice, name("bank/web-1")));
    assert_eq!(store.slices(&name("shop/web")).len(), 1);
    assert!(store.slices(&name("bank/web")).is_empty());
}

#[test]
fn y16_deleted_and_created_again_in_one_batch_is_the_new_one() {
    let mut store = store([web().into()]);
    store.handle(Event::Deleted(Kind::Service, name("shop/web")));
    store.handle(applied(Service { uid: "another".into(), ..web() }));
    assert_eq!(changed(&mut store), ["shop/web"]);
    assert_eq!(store.service(&name("shop/web")).unwrap().uid, "another".into());
}

#[test]
fn a_slice_that_moves_to_another_service_changes_both() {
    let mut store = store([web_slice("shop/s", "10.244.1.5").into()]);
    store.handle(applied(EndpointSlice { service: "api".into(), ..web_slice("shop/s", "10.244.1.5") }));
    assert_eq!(changed(&mut store), ["shop/api", "shop/web"]);
    assert!(store.slices(&name("shop/web")).is_empty());
    assert_eq!(store.slices(&name("shop/api")).len(), 1);
}

/// Usually a slice's name begins with that of its Service. It need not, and may begin with another one's.
#[test]
fn a_slice_is_found_whatever_its_name_says() {
    for slice in ["shop/web-1", "shop/api-1", "shop/s", "shop/-"] {
        let mut store = store([web_slice("shop/api-2", "10.244.1.6").into()]);
        let of = |service: &str| EndpointSlice { service: service.into(), ..web_slice(slice, "10.244.1.5") };
        let has = |store: &Store, service: &str| {
            let slices = store.slices(&name(&format!("shop/{service}")));
            slices.iter().any(|known| name(slice).name == known.name)
        };
        for service in ["web", "api", "web"] {
            store.handle(applied(of(service)));
            assert_eq!(
                ["web", "api"].map(|of| has(&store, of)),
                ["web", "api"].map(|of| of == service),
                "{slice}"
            );
        }
        store.take_changed();
        store.handle(Event::Deleted(Kind::EndpointSlice, name(slice)));
        assert_eq!(changed(&mut store), ["shop/web"], "{slice}");
        assert!(!has(&store, "web"), "{slice}");
        assert_eq!(store.owners.len(), 1, "that of the other one: {slice}");
    }
}

#[test]
fn a_slice_that_loses_its_service_label_is_gone() {
    let mut store = store([web_slice("shop/s", "10.244.1.5").into()]);
    store.handle(applied(EndpointSlice { service: "".into(), ..web_slice("shop/s", "10.244.1.5") }));
    assert_eq!(changed(&mut store), ["shop/web"]);
    assert!(store.slices(&name("shop/web")).is_empty());
}

#[test]
fn slices_stand_by_name_however_they_came() {
    let slices = ["shop/c", "shop/a", "shop/b"].map(|name| web_slice(name, "10.244.1.5").into());
    let store = store(slices);
    let names: Vec<&str> = store.slices(&name("shop/web")).iter().map(|slice| &*slice.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn deleting_the_service_keeps_its_slices_and_the_other_way_round() {
    let mut store = store([web().into(), web_slice("shop/web-1", "10.244.1.5").into()]);
    store.handle(Event::Deleted(Kind::Service, name("shop/web")));
    assert_eq!(store.slices(&name("shop/web")).len(), 1);
    store.handle(applied(web()));
    store.handle(Event::Deleted(Kind::EndpointSlice, name("shop/web-1")));
    assert!(store.service(&name("shop/web")).is_some());
}

#[test]
fn deletions_of_what_is_not_there_are_nothing() {
    let mut store = store([]);
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        store.handle(Event::Deleted(kind, name("shop/web")));
    }
    assert!(store.take_changed().is_empty());
}

#[test]
fn a6_nothing_is_left_of_services_that_came_and_went() {
    let mut store = store([]);
    for _ in 0..10 {
        store.handle(applied(web()));
        store.handle(applied(web_slice("shop/web-1", "10.244.1.5")));
        store.handle(applied(web_slice("shop/web-2", "10.244.1.6")));
        store.handle(Event::Deleted(Kind::EndpointSlice, name("shop/web-1")));
        store.handle(Event::Deleted(Kind::Service, name("shop/web")));
        store.handle(Event::Deleted(Kind::EndpointSlice, name("shop/web-2")));
    }
    assert!(store.services.is_empty() && store.owners.is_empty() && store.triggers.is_empty());
}

#[test]
fn a_repeated_list_takes_away_what_it_does_not_name_and_only_at_its_end() {
    let mut store = store([web().into(), service("shop/api", &["10.96.0.11"]).into()]);
    store.handle(Event::ListStarted(Kind::Service));
    store.handle(applied(web()));
    assert!(store.service(&name("shop/api")).is_some());
    store.handle(Event::ListDone(Kind::Service));
    assert!(store.service(&name("shop/api")).is_none());
    assert_eq!(changed(&mut store), ["shop/api"]);
}

#[test]
fn a_repeated_list_of_one_kind_leaves_the_others() {
    let mut store = store([web().into(), web_slice("shop/web-1", "10.244.1.5").into(), node().into()]);
    relist(&mut store, Kind::EndpointSlice, []);
    assert!(store.service(&name("shop/web")).is_some() && store.node().is_some());
    assert!(store.slices(&name("shop/web")).is_empty());
    relist(&mut store, Kind::Node, []);
    assert!(store.node().is_none());
}

#[test]
fn a_list_that_starts_again_forgets_what_the_broken_one_said() {
    let mut store = store([web().into(), service("shop/api", &["10.96.0.11"]).into()]);
    store.handle(Event::ListStarted(Kind::Service));
    store.handle(applied(web()));
    // `web` was deleted while the list was broken off, so that the new one does not name it.
    relist(&mut store, Kind::Service, [service("shop/api", &["10.96.0.11"]).into()]);
    assert!(store.service(&name("shop/web")).is_none());
    assert!(store.service(&name("shop/api")).is_some());
}

#[test]
fn what_cannot_be_read_keeps_its_last_state_through_a_list() {
    let mut store = store([web().into(), web_slice("shop/web-1", "10.244.1.5").into(), node().into()]);
    for (kind, of) in [(Kind::Service, "shop/web"), (Kind::EndpointSlice, "shop/web-1"), (Kind::Node, "here")]
    {
        store.handle(Event::ListStarted(kind));
        store.handle(undecodable(kind, of));
        store.handle(Event::ListDone(kind));
    }
    assert!(store.service(&name("shop/web")).is_some() && store.node().is_some());
    assert_eq!(store.slices(&name("shop/web")).len(), 1);
    assert_eq!(store.undecodable().len(), 3);
}

#[test]
fn what_cannot_be_read_keeps_nothing_deleted_alive() {
    let mut store = store([web().into()]);
    store.handle(undecodable(Kind::Service, "shop/web"));
    store.handle(Event::Deleted(Kind::Service, name("shop/web")));
    assert!(store.service(&name("shop/web")).is_none());
    assert_eq!(store.undecodable().len(), 0);

    store.handle(applied(web()));
    store.handle(undecodable(Kind::Service, "shop/web"));
    relist(&mut store, Kind::Service, []);
    assert!(store.service(&name("shop/web")).is_none());
    assert_eq!(store.undecodable().len(), 0);
}

#[test]
fn an_unreadable_object_without_a_name_keeps_nothing_alive() {
    let mut store = store([web().into()]);
    store.handle(Event::ListStarted(Kind::Service));
    store.handle(Event::Undecodable { kind: Kind::Service, name: None, error: "no metadata".into() });
    store.handle(Event::ListDone(Kind::Service));
    assert!(store.service(&name("shop/web")).is_none());
}

#[test]
fn an_object_that_can_be_read_again_is_not_unreadable_any_longer() {
    let mut store = store([]);
    store.handle(undecodable(Kind::Service, "shop/web"));
    assert!(store.take_changed().undecodable);
    store.handle(undecodable(Kind::Service, "shop/web"));
    assert!(!store.take_changed().undecodable, "it was known");
    store.handle(applied(web()));
    assert!(store.take_changed().undecodable);
    assert_eq!(store.undecodable().len(), 0);
}

#[test]
fn only_this_node_counts_and_only_when_it_changes() {
    let mut store = store([]);
    store.handle(applied(Node { name: "elsewhere".into(), ..node() }));
    assert!(!store.take_changed().node && store.node().is_none());
    store.handle(applied(node()));
    assert!(store.take_changed().node);
    store.handle(applied(node()));
    assert!(!store.take_changed().node);
    store.handle(applied(Node { leaving: true, ..node() }));
    assert!(store.take_changed().node);
}

#[test]
fn e14_a_node_may_come_after_everything_else() {
    let mut store =
        store([slice("shop/web-1", "web", vec![here("10.244.1.5"), elsewhere("10.244.2.5")]).into()]);
    let localities: Vec<_> =
        store.slices(&name("shop/web"))[0].endpoints.iter().map(|endpoint| endpoint.locality).collect();
    assert_eq!(localities, [crate::model::Locality::Local, crate::model::Locality::Remote]);
    store.handle(applied(node()));
    assert!(store.take_changed().node);
}

#[test]
fn endpoints_are_kept_as_they_came() {
    fn of_family(addresses: [&'static str; 4]) -> ([&'static str; 4], EndpointSlice) {
        let [first, second, third, fourth] = addresses;
        let endpoints = vec![
            here(first),
            elsewhere(second).terminating(),
            here(third).hinted(&["zone-a"], &["node-b"]),
            elsewhere(fourth).unready().nowhere(),
        ];
        (addresses, slice("shop/web-1", "web", endpoints))
    }
    for (addresses, slice) in [
        of_family(["10.244.1.5", "10.244.2.5", "10.244.1.6", "10.244.2.6"]),
        of_family(["fd00::5", "fd00:2::5", "fd00::6", "fd00:2::6"]),
    ] {
        let came = slice.endpoints.clone();
        let store = store([slice.into()]);
        let kept: Vec<_> = store.slices(&name("shop/web"))[0].endpoints.iter().collect();
        assert_eq!(kept.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>(), addresses);
        for (kept, came) in kept.iter().zip(&came) {
            assert_eq!(
                (kept.ready, kept.serving, kept.terminating),
                (came.ready, came.serving, came.terminating)
            );
            assert_eq!(kept.hints, came.hints.as_deref());
        }
        use crate::model::Locality::{Local, Remote, Unknown};
        let localities: Vec<_> = kept.iter().map(|endpoint| endpoint.locality).collect();
        assert_eq!(localities, [Local, Remote, Local, Unknown]);
    }
}

#[test]
fn changes_are_counted_until_they_are_taken_and_in_total() {
    let mut store = store([]);
    store.handle(applied(web()));
    store.handle(applied(web()));
    store.handle(applied(web_slice("shop/web-1", "10.244.1.5")));
    store.handle(Event::Deleted(Kind::EndpointSlice, name("shop/web-1")));
    assert_eq!(store.service_changes(), ChangeCount { pending: 1, total: 1 });
    assert_eq!(store.endpoint_changes(), ChangeCount { pending: 2, total: 2 });
    store.take_changed();
    assert_eq!(store.service_changes(), ChangeCount { pending: 0, total: 1 });
    assert_eq!(store.endpoint_changes(), ChangeCount { pending: 0, total: 2 });
}

mod triggers {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    fn triggered(slice_name: &str, address: &str, seconds: u64) -> Event {
        applied(EndpointSlice { triggered: Some(at(seconds)), ..web_slice(slice_name, address) })
    }

    fn taken(store: &mut Store) -> Vec<SystemTime> {
        store.take_triggers().remove(&name("shop/web")).unwrap_or_default()
    }

    #[test]
    fn every_change_of_a_service_counts_until_they_are_taken() {
        let mut store = store([]);
        store.handle(triggered("shop/web-1", "10.244.1.5", 1));
        store.handle(triggered("shop/web-2", "10.244.1.6", 2));
        store.handle(triggered("shop/web-1", "10.244.1.7", 3));
        assert_eq!(taken(&mut store), [at(1), at(2), at(3)]);
        assert!(store.take_triggers().is_empty());
    }

    #[test]
    fn a_slice_that_says_nothing_new_has_no_trigger() {
        let mut store = store([]);
        store.handle(triggered("shop/web-1", "10.244.1.5", 1));
        store.handle(triggered("shop/web-1", "10.244.1.5", 2));
        assert_eq!(taken(&mut store), [at(1)]);
    }

    #[test]
    fn slices_without_the_annotation_and_from_before_the_start_have_none() {
        let mut store = Store::new("here".into(), at(10));
        store.handle(triggered("shop/web-1", "10.244.1.5", 10));
        store.handle(applied(web_slice("shop/web-2", "10.244.1.6")));
        assert!(store.take_triggers().is_empty());
    }

    #[test]
    fn a_deletion_takes_those_that_wait_away_and_an_addition_after_it_counts() {
        let mut store = store([]);
        store.handle(triggered("shop/web-1", "10.244.1.5", 1));
        store.handle(Event::Deleted(Kind::EndpointSlice, name("shop/web-1")));
        assert!(taken(&mut store).is_empty());
        store.handle(triggered("shop/web-1", "10.244.1.5", 2));
        assert_eq!(taken(&mut store), [at(2)]);
    }

    #[test]
    fn taking_changes_leaves_them_for_after_the_sync() {
        let mut store = store([]);
        store.handle(triggered("shop/web-1", "10.244.1.5", 1));
        store.take_changed();
        assert_eq!(taken(&mut store), [at(1)]);
    }

    #[test]
    fn syncs_that_fail_for_long_do_not_fill_the_memory() {
        let mut store = store([]);
        for second in 1..1_000 {
            store.handle(triggered("shop/web-1", &format!("10.244.1.{}", second % 250), second));
        }
        let times = taken(&mut store);
        assert_eq!((times.len(), times[0]), (MAX_PENDING_TRIGGERS, at(1)));
    }
}
