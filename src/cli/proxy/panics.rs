//! A panic ends the whole process, in whichever thread it happens.
//!
//! A restart loses nothing, as rules outlive the process. A process that goes on without its source, its servers or its
//! loop looks alive and does nothing (k8s#24357). Releases are built to abort; this holds for every other build, and
//! for tasks, whose panics the runtime would keep to itself.

use std::panic;
use std::process;

/// From now on, after the message of the hook before.
pub fn end_the_process() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::thread;

    use super::*;

    const PLACE: &str = "FERROVIA_TEST_PANIC_IN";

    fn panic_in(place: &str) {
        end_the_process();
        match place {
            "thread" => drop(thread::spawn(|| panic!("on purpose")).join()),
            _ => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let _ = runtime.block_on(runtime.spawn(async { panic!("on purpose") }));
            }
        }
    }

    /// The test is run again in a process of its own, which is to end in the middle of it.
    #[test]
    fn y4_a_panic_in_any_thread_or_task_ends_the_process() {
        if let Some(place) = env::var_os(PLACE) {
            return panic_in(&place.to_string_lossy());
        }
        let name = thread::current().name().unwrap().to_owned();
        for place in ["thread", "task"] {
            let mut command = Command::new(env::current_exe().unwrap());
            let output = command.args(["--exact", &name, "--nocapture"]).env(PLACE, place).output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{place}: {words}");
            assert!(words.contains("on purpose"), "{words}");
        }
    }
}
