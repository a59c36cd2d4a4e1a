//! Processes that are killed or stopped from outside: a typed error, and the next request works.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millm_sandbox::{Error, Grammar};

use crate::grammars::{bytes, follow};
use crate::{files, open};

/// The helpers of this test's process, and their forks.
fn descendants() -> Vec<i32> {
    let mut found: Vec<i32> = vec![std::process::id() as i32];
    for at in 0.. {
        let Some(process) = found.get(at).copied() else { break };
        let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        found.extend(children.unwrap_or_default().split_whitespace().filter_map(|n| n.parse::<i32>().ok()));
        // Other threads of the test start processes too.
        for thread in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|n| n.parse::<i32>().ok()));
        }
        found.dedup();
    }
    found.sort_unstable();
    found.dedup();
    found.retain(|process| *process != std::process::id() as i32);
    found
}

fn signal(name: &str, processes: &[i32]) {
    assert!(!processes.is_empty(), "somebody is there");
    // A process may just have ended by itself.
    let numbers = processes.iter().map(ToString::to_string);
    Command::new("kill").arg(format!("-{name}")).args(numbers).stderr(Stdio::null()).status().expect("kill");
}

#[test]
fn a_killed_helper_is_started_again() {
    let language = open(files());
    for signal_name in ["KILL", "STOP", "SEGV"] {
        signal(signal_name, &descendants());
        let next = language.encode("Hello!".to_owned(), true);
        assert!(next.is_ok(), "{signal_name}: {next:?}");
        let chat = millm_sandbox::Chat {
            messages: r#"[{"role": "user", "content": "hi"}]"#.to_owned(),
            tools: None,
            variables: None,
            add_generation_prompt: true,
            most_bytes: usize::MAX,
        };
        assert!(language.chat(chat).is_ok(), "{signal_name}");
    }
    drop(language);
    let begin = Instant::now();
    while !descendants().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?} are left of it", descendants());
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_whose_process_is_killed_says_so_and_the_next_works() {
    let grammars = bytes();
    let grammar = Grammar::Regex("[a-z]{5}".to_owned());
    let long = Duration::from_secs(20);
    for name in ["KILL", "STOP"] {
        let mut constraint = grammars.constraint(&grammar).expect("held");
        constraint.next(long).expect("held");
        // The answer's process runs once it has sent something.
        constraint.accept(u32::from(b'a')).expect("held");
        constraint.next(long).expect("held");
        signal(name, &descendants());
        let lost = constraint.accept(u32::from(b'a')).and_then(|()| constraint.next(long).map(|_| ()));
        assert!(matches!(lost, Err(Error::Unavailable(_))), "{name}: {lost:?}");
        assert_eq!(follow(grammars.constraint(&grammar).expect("held")), "aaaaa", "{name}");
    }
}
