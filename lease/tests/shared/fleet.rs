//! Two and three processes, real signals, a real store.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    millis,
    replica::{Does, Replica, assert_no_overlap},
    secs,
};
use crate::cluster::{Cluster, Fenced};

#[test]
fn of_two_that_start_in_the_same_millisecond_one_runs() {
    let cluster = Cluster::shared();
    for round in 0..5 {
        let lease = format!("start {round}");
        let mut pair = [(); 2].map(|()| Replica::prepare(&cluster.address(), &lease, secs(60), Does::Polls));
        pair.iter_mut().for_each(Replica::begin);
        let began = Instant::now();
        let ran = loop {
            let ran = pair.each_mut().map(|replica| replica.says_within("began", millis(500)).is_some());
            if ran != [false, false] {
                break ran;
            }
            assert!(began.elapsed() < secs(30), "nobody runs");
        };
        assert_ne!(ran[0], ran[1], "one of them");
        for replica in &mut pair {
            replica.listen(millis(200));
        }
        let began = pair.iter().flat_map(|replica| &replica.said).filter(|line| line.word == "began");
        assert_eq!(began.count(), 1);
    }
}

#[test]
fn a_holder_that_is_killed_is_followed_when_its_lease_is_over() {
    let cluster = Cluster::shared();
    let ttl = secs(3);
    let mut first = Replica::start(&cluster.address(), "killed", ttl, Does::Polls);
    let term = first.says("began").term;
    let mut second = Replica::start(&cluster.address(), "killed", ttl, Does::Polls);
    assert_eq!(second.says_within("began", ttl * 2), None, "it stands by while the lease is renewed");
    first.signal(Signal::KILL);
    let killed = Instant::now();
    let began = second.says("began");
    let took = killed.elapsed();
    println!("take-over {took:?} after the kill, with a ttl of {ttl:?}");
    assert!(began.term > term);
    assert!(took < (ttl + ttl / 3) * 10, "{took:?}");
    first.ended();
    assert_no_overlap(first.said.iter().chain(&second.said));
}

#[test]
fn a_holder_that_is_asked_to_end_hands_over_at_once() {
    let cluster = Cluster::shared();
    // Far longer than the test: the lease is given back, and not over.
    let ttl = secs(120);
    let mut holder = Replica::start(&cluster.address(), "terminated", ttl, Does::Polls);
    holder.says("began");
    for _ in 0..3 {
        let mut next = Replica::start(&cluster.address(), "terminated", ttl, Does::Polls);
        // It is a candidate by then: it hears of the release, and does not ask by luck.
        assert_eq!(next.says_within("began", secs(1)), None);
        holder.signal(Signal::TERM);
        let asked = Instant::now();
        next.says("began");
        let took = asked.elapsed();
        println!("hand-over {took:?} after SIGTERM");
        assert!(took < secs(10), "{took:?}");
        assert!(holder.ended(), "it ends well");
        assert_no_overlap(holder.said.iter().chain(&next.said));
        holder = next;
    }
}

/// Stops a holder for three lifetimes. Returns what both said, and checks that the stale term changes nothing.
fn stopped(does: Does, lease: &str) -> (Replica, Replica) {
    let cluster = Cluster::shared();
    let ttl = millis(1_200);
    let fenced = Fenced::new(&cluster, lease);
    let mut pair = [(); 2].map(|()| Replica::start(&cluster.address(), lease, ttl, does));
    for replica in &mut pair {
        replica.listen(ttl);
    }
    // On a busy machine the lease may have been handed over by now.
    let polled =
        |replica: &Replica| replica.said.iter().rfind(|line| line.word == "poll").map(|line| line.at);
    pair.sort_by_key(polled);
    let [mut second, mut first] = pair;
    // The next line is then a new one: the signal arrives within a poll if they are long, and otherwise in the pause after it. Between the
    // check and the line of a poll, it would stop a poll that has begun, and that goes on.
    first.listen(millis(20));
    let old = first.says("poll").term;
    first.signal(Signal::STOP);
    assert_eq!(fenced.write(old), 1);
    let new = loop {
        let began = second.says("began").term;
        if began > old {
            break began;
        }
    };
    assert_eq!(fenced.write(new), 1);
    std::thread::sleep(ttl * 3);
    first.signal(Signal::CONT);
    first.says("dropped");
    first.listen(ttl);
    second.listen(millis(50));
    assert_eq!(fenced.write(old), 0, "a term that is over is refused");
    (first, second)
}

#[test]
fn a_holder_that_was_stopped_while_its_task_waits_polls_it_no_more() {
    // The watchdog looks, too, and is seldom first here: then the check at the poll is not needed.
    for round in 0..3 {
        let (first, second) = stopped(Does::PollsWatchedLate, &format!("stopped_waiting_{round}"));
        assert_no_overlap(first.said.iter().chain(&second.said));
    }
}

#[test]
fn a_holder_that_was_stopped_in_a_poll_ends_that_poll_and_begins_no_other() {
    // On a busy machine the signal may arrive between two polls.
    let was_in_a_poll = (0..5).any(|round| {
        let (first, second) = stopped(Does::LongPolls, &format!("stopped_polling_{round}"));
        assert_no_overlap(first.said.iter().chain(&second.said));
        let count = |word: &str| first.said.iter().filter(|line| line.word == word).count();
        assert_eq!(count("poll"), count("polled"), "the poll under way goes on to its end");
        let taken_over = second.said.iter().rfind(|line| line.word == "began").expect("it runs").at;
        // A poll that ends after another process runs: this is what the term is for.
        first.said.iter().rfind(|line| line.word == "polled").expect("it was polled").at > taken_over
    });
    assert!(was_in_a_poll, "the signal has never arrived in a poll");
}

#[test]
fn each_due_time_runs_once_in_a_fleet_that_is_killed_again_and_again() {
    let cluster = Cluster::shared();
    let (ttl, lease) = (millis(900), "slots");
    let new = || Replica::start(&cluster.address(), lease, ttl, Does::Loop);
    let mut fleet = vec![new(), new(), new()];
    let mut due = Vec::new();
    for round in 0..4 {
        std::thread::sleep(secs(2));
        for mut replica in fleet.drain(..) {
            replica.listen(millis(20));
            let runs = replica.said.iter().any(|line| line.word == "due");
            if runs && round % 2 == 0 {
                replica.signal(Signal::KILL);
                replica.ended();
            } else if runs {
                replica.signal(Signal::TERM);
                replica.ended();
            }
            due.extend(replica.said.drain(..).filter(|line| line.word == "due").map(|line| line.term));
            drop(replica);
        }
        fleet = vec![new(), new(), new()];
    }
    for mut replica in fleet {
        replica.listen(ttl * 2);
        due.extend(replica.said.drain(..).filter(|line| line.word == "due").map(|line| line.term));
    }
    due.sort_unstable();
    let distinct: std::collections::BTreeSet<_> = due.iter().copied().collect();
    assert_eq!(due.len(), distinct.len(), "twice: {due:?}");
    // A kill between a claim and its line loses one; the take-over runs what fell due in between.
    let (first, last) = (due[0], due[due.len() - 1]);
    let all = (last - first) / 500 + 1;
    assert!(due.len() as u64 + 4 >= all, "{} of {all} ran: {due:?}", due.len());
    assert!(all > 10, "{due:?}");
}

#[test]
fn a_due_time_whose_holder_crashed_is_not_run_again() {
    let (crashed, next) = crashed(Does::LoopCrashes, Does::Loop, "crashed");
    assert!(next[0] > crashed, "{crashed} again: {next:?}");
}

#[test]
fn a_due_time_that_is_claimed_after_its_run_is_run_again_after_a_crash() {
    let (crashed, next) = crashed(Does::LoopAfterRunCrashes, Does::LoopAfterRun, "crashed_after_run");
    assert!(next.contains(&crashed), "{crashed} not again: {next:?}");
    let distinct: std::collections::BTreeSet<_> = next.iter().copied().collect();
    assert_eq!(next.len(), distinct.len(), "what has succeeded is not run again: {next:?}");
}

/// Lets a first holder run one iteration well, and a second crash in its own. Returns the due time of that, and those that others ran after it.
fn crashed(crashes: Does, runs: Does, lease: &str) -> (u64, Vec<u64>) {
    let cluster = Cluster::shared();
    let ttl = millis(900);
    let mut first = Replica::start(&cluster.address(), lease, ttl, runs);
    first.says("due");
    first.signal(Signal::TERM);
    first.ended();
    let mut second = Replica::start(&cluster.address(), lease, ttl, crashes);
    let crashed = second.says("due").term;
    assert!(!second.ended(), "it crashed");
    let mut third = Replica::start(&cluster.address(), lease, ttl, runs);
    third.says("due");
    third.listen(ttl);
    let due = third.said.iter().filter(|line| line.word == "due").map(|line| line.term);
    (crashed, due.collect())
}

/// A proxy that can be cut: nothing passes any more, and no connection ends.
struct Proxy {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let proxy = Self {
            port: listener.local_addr().expect("bound").port(),
            cut: Arc::new(AtomicBool::new(false)),
        };
        let cut = proxy.cut.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                pass(client, server, cut.clone());
                pass(server_too, client_too, cut.clone());
            }
        });
        proxy
    }

    fn cut(&self) {
        self.cut.store(true, SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            // What was sent before is on its way; later bytes are swallowed.
            if !cut.load(SeqCst) && to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        if !cut.load(SeqCst) {
            let _ = to.shutdown(Shutdown::Write);
        }
    });
}

#[test]
fn a_holder_that_is_cut_off_is_dropped_before_another_runs() {
    for does in [Does::Polls, Does::Deaf] {
        let cluster = Cluster::shared();
        let (ttl, lease) = (secs(3), format!("cut {does:?}"));
        let proxy = Proxy::to(cluster.port);
        let mut first = Replica::start(&cluster.address_by(proxy.port), &lease, ttl, does);
        first.says("began");
        let mut second = Replica::start(&cluster.address(), &lease, ttl, Does::Polls);
        assert_eq!(second.says_within("began", ttl * 2), None);
        proxy.cut();
        let dropped = first.says("dropped");
        let began = second.says("began");
        let between = began.at.checked_sub(dropped.at);
        println!("{does:?}: dropped {between:?} before the other began");
        assert!(between.is_some(), "{does:?}: dropped before another runs");
        second.listen(ttl);
        first.listen(Duration::ZERO);
        assert_no_overlap(first.said.iter().chain(&second.said));
    }
}

#[test]
fn a_task_that_blocks_its_thread_ends_the_process_before_another_runs() {
    let cluster = Cluster::shared();
    let ttl = millis(1_500);
    let proxy = Proxy::to(cluster.port);
    let mut first = Replica::start(&cluster.address_by(proxy.port), "blocked", ttl, Does::Blocks);
    first.says("blocks");
    proxy.cut();
    let mut second = Replica::start(&cluster.address(), "blocked", ttl, Does::Polls);
    assert!(!first.ended(), "the watchdog ends it");
    let ended = otel_tasks::gate::BootInstant::now()
        .saturating_duration_since(otel_tasks::gate::BootInstant::after_boot(Duration::ZERO));
    let began = second.says("began");
    println!("the process was gone {:?} before the other began", began.at.checked_sub(ended));
    assert!(began.at > first.said.iter().map(|line| line.at).max().expect("it said something"));
    let counts: BTreeMap<&str, usize> = second.said.iter().fold(BTreeMap::new(), |mut counts, line| {
        *counts.entry(line.word.as_str()).or_default() += 1;
        counts
    });
    assert_eq!(counts.get("began"), Some(&1), "{counts:?}");
}

/// A wall clock that is set, and that goes at another rate; the steady clocks are left alone.
fn fake_time<'a>(library: &'a str, time: &'a str) -> [(&'a str, &'a str); 3] {
    [("LD_PRELOAD", library), ("FAKETIME", time), ("DONT_FAKE_MONOTONIC", "1")]
}

fn fake_time_library() -> String {
    let found = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut paths = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let path = paths.find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("this test needs libfaketime: apt-get install libfaketime"));
    path.to_str().expect("a path of Debian's").to_owned()
}

#[test]
fn wall_clocks_that_are_wrong_and_fast_change_nothing() {
    let (cluster, library) = (Cluster::shared(), fake_time_library());
    let (ttl, address) = (secs(3), cluster.address());
    let ahead = fake_time(&library, "+1h x2");
    let behind = fake_time(&library, "-1h");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let mut first = Replica::start_with(&ahead, &address, "clocks", ttl, Does::Polls);
    let mut second = Replica::start_with(&behind, &address, "clocks", ttl, Does::Polls);
    assert!(first.said[0].term >= now + 3_600, "the clock of the first is set: {:?}", first.said[0]);
    assert!(second.said[0].term <= now - 3_500, "the clock of the second is set: {:?}", second.said[0]);
    for round in 0..3 {
        let waits_since = Instant::now();
        let is_first = loop {
            assert!(waits_since.elapsed() < secs(60), "round {round}: nobody runs");
            if first.says_within("began", millis(50)).is_some() {
                break true;
            }
            if second.says_within("began", millis(50)).is_some() {
                break false;
            }
        };
        let (holder, candidate) =
            if is_first { (&mut first, &mut second) } else { (&mut second, &mut first) };
        assert_eq!(candidate.says_within("began", ttl * 2), None, "round {round}: it is renewed");
        holder.listen(millis(50));
        assert!(!holder.said.iter().any(|line| line.word == "dropped"), "round {round}: it keeps its lease");
        holder.signal(if round % 2 == 0 { Signal::KILL } else { Signal::TERM });
        holder.ended();
        // The end of one holder is the beginning of the other.
        let variables = if is_first { &ahead } else { &behind };
        let mut next = Replica::start_with(variables, &address, "clocks", ttl, Does::Polls);
        std::mem::swap(holder, &mut next);
        assert_no_overlap(next.said.iter().chain(&first.said).chain(&second.said));
    }
}
