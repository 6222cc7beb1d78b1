//! Calls that touch nothing.

use super::*;

fn call(command: &str, input: &str) -> String {
    let environment = |name: &str| (name == "CNI_COMMAND").then(|| command.to_owned());
    answer(&environment, input.as_bytes()).text
}

#[test]
fn version_is_answered_in_any_version() {
    let versions = r#""supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
    for (input, said) in
        [(r#"{"cniVersion":"0.1.0"}"#, "0.1.0"), (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"), ("", "1.1.0")]
    {
        assert_eq!(call("VERSION", input), format!(r#"{{"cniVersion":"{said}",{versions}"#));
    }
}

#[test]
fn errors_are_in_the_version_of_the_call() {
    let code = |command: &str, version: &str| {
        let text = call(command, &format!(r#"{{"cniVersion":"{version}","name":"pods"}}"#));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        (value["cniVersion"].as_str().unwrap().to_owned(), value["code"].as_u64().unwrap())
    };
    assert_eq!(code("CHECK", "0.3.1"), ("0.3.1".to_owned(), 1));
    assert_eq!(code("GC", "1.0.0"), ("1.0.0".to_owned(), 1));
    assert_eq!(code("STATUS", "1.0.0"), ("1.0.0".to_owned(), 1));
    assert_eq!(code("ADD", "0.2.0"), ("1.1.0".to_owned(), 1));
    assert_eq!(code("ADD", "1.1.0"), ("1.1.0".to_owned(), 4));
    assert_eq!(code("BREW", "1.1.0"), ("1.1.0".to_owned(), 4));
}
