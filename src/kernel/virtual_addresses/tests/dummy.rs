//! Addresses of kube-proxy's device, compared with what `ip address` says of them.

use super::*;

fn open(namespace: &Namespace, family: Family) -> DummyDevice {
    namespace.run(|| DummyDevice::open(family).unwrap()).unwrap()
}

fn shown(namespace: &Namespace, family: Family) -> Vec<String> {
    let option = if family == Family::V4 { "-4" } else { "-6" };
    let text = run(namespace, &format!("ip {option} -oneline address show dev kube-ipvs0"));
    let mut found: Vec<_> =
        text.lines().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect();
    found.sort();
    found
}

/// With any device of the name, as the kernel of the host may lack dummies.
fn with_device(namespace: &Namespace) {
    for (family, a, b, own, bits) in [
        (Family::V4, "10.96.0.10", "10.96.0.11", "172.18.0.2", 32),
        (Family::V6, "fd00:96::10", "fd00:96::11", "fd00:18::2", 128),
    ] {
        let mut device = open(namespace, family);
        let changes = [add(a, None), add(own, None), add(b, Some(own)), add(a, None), remove(b), remove(b)];
        let refused = reasons(device.change(family, &changes));
        assert_eq!(refused, [(1, OCCUPIED.to_owned())]);
        assert_eq!(shown(namespace, family), [format!("{a}/{bits}")]);
        assert_eq!(listed(&mut device, family), [a]);
        settle(&mut device);
        device.change(family, &[remove(a)]).unwrap();
        device.change(family, &[add(a, None)]).unwrap();
        assert!(!settle(&mut device), "own changes");
        for line in [
            format!("ip address del {a}/{bits} dev kube-ipvs0"),
            format!("ip address add {b}/{bits} dev kube-ipvs0 nodad"),
        ] {
            run(namespace, &line);
            heard(&mut device, &line);
        }
        assert_eq!(listed(&mut device, family), [b]);
        let option = if family == Family::V4 { "-4" } else { "-6" };
        assert!(run(namespace, &format!("ip {option} route get {b}")).contains("local"), "packets are taken");
    }
    let state = run(namespace, "ip link show dev kube-ipvs0");
    assert!(!state.contains(",UP"), "{state}");
    namespace.run(|| remove_device().unwrap()).unwrap();
    namespace.run(|| remove_device().unwrap()).unwrap();
    assert!(!run(namespace, "ip link show").contains("kube-ipvs0"));
}

/// The kernel tells of IPv6 addresses later than it answers.
fn settle(device: &mut DummyDevice) -> bool {
    std::thread::sleep(Duration::from_millis(50));
    device.disturbed().unwrap()
}

fn heard(device: &mut DummyDevice, line: &str) {
    let start = Instant::now();
    while !device.disturbed().unwrap() {
        assert!(start.elapsed() < Duration::from_secs(5), "not told of {line}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn addresses_of_the_device_are_what_ip_says() {
    let namespace = node();
    run(&namespace, "ip link add kube-ipvs0 type bridge");
    with_device(&namespace);
}

#[test]
#[ignore = "the kernel of the host may have no dummy devices: run it in the guest kernel"]
fn the_device_is_created_and_made_again() {
    let namespace = node();
    let mut device = open(&namespace, Family::V4);
    let link = run(&namespace, "ip -d link show dev kube-ipvs0");
    assert!(link.contains("NOARP") && link.contains("dummy"), "{link}");
    device.change(Family::V4, &[add("10.96.0.10", None)]).unwrap();
    assert!(!device.disturbed().unwrap());
    run(&namespace, "ip link del kube-ipvs0");
    assert!(device.disturbed().unwrap());
    assert_eq!(listed(&mut device, Family::V4), [""; 0]);
    device.change(Family::V4, &[add("10.96.0.10", None)]).unwrap();
    with_device(&namespace);
}

#[test]
fn a_kernel_without_dummy_devices_says_so() {
    let namespace = Namespace::new().unwrap();
    match namespace.run(|| DummyDevice::open(Family::V4)).unwrap() {
        Ok(_) => assert!(run(&namespace, "ip link show").contains("kube-ipvs0")),
        Err(error) => assert_eq!(
            error.to_string(),
            "cannot add the device kube-ipvs0, as the kernel has no devices of type dummy"
        ),
    }
}

#[test]
fn ten_thousand_addresses_take_a_moment() {
    let namespace = node();
    run(&namespace, "ip link add kube-ipvs0 type bridge");
    let mut device = open(&namespace, Family::V4);
    let address = |number: u16| IpAddr::from([10, 96, (number >> 8) as u8, number as u8]);
    let adds: Vec<_> =
        (0..10_000).map(|number| AddressChange::Add { address: address(number), source: None }).collect();
    let start = Instant::now();
    device.change(Family::V4, &adds).unwrap();
    println!("10,000 addresses: added in {:?}", start.elapsed());
    assert_eq!(device.list(Family::V4).unwrap().len(), 10_000);
    assert!(!device.disturbed().unwrap(), "own changes");
}
