//! The tools that measure, between two hosts.

use std::process::Output;

use rustix::process::Signal;

use crate::host::{ETH, Pair, UDP4, eventually};

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The name of both layers is the tools', too.
fn bind(pair: &Pair, tool: &str) {
    pair.one.must("irm", &format!("bind program {tool} name my_vpn"));
}

const QUALITIES: [&str; 5] = ["raw", "best", "video", "voice", "data"];

pub(crate) fn pings_of_each_quality_are_answered_plain_and_encrypted() {
    for layer in [ETH, UDP4] {
        let pair = Pair::new(layer);
        bind(&pair, "oping");
        let server = pair.one.start("oping", "-l", "Ouroboros ping server started.");
        for quality in QUALITIES {
            for crypt in ["", "-C"] {
                let words = format!("-n my_vpn -c 5 -i 20 -q {quality} {crypt}");
                let output = text(&pair.two.run("oping", &words));
                assert!(
                    output.starts_with("Pinging my_vpn with 64 bytes of data (5 packets):\n\n")
                );
                for id in 0..5 {
                    let line = format!("64 bytes from my_vpn: seq={id} time=");
                    assert!(output.contains(&line), "{words}: {output}");
                }
                let sent = "5 packets transmitted, 5 received, 0 out-of-order, 0% packet loss";
                assert!(output.contains("--- my_vpn ping statistics ---"), "{output}");
                assert!(output.contains(sent), "{words}: {output}");
                assert!(output.contains("rtt min/avg/max/mdev = "), "{output}");
                // As fast as it goes, and large ones.
                let words = format!("-n my_vpn -c 200 -f -Q -s 1300 -q {quality} {crypt} --json");
                let output = text(&pair.two.run("oping", &words));
                let told: serde_json::Value = serde_json::from_str(&output).expect("JSON");
                assert_eq!(told["received"], 200, "{words}: {told}");
                assert!(told["rtt_ms"]["p99"].as_f64().expect("a number") > 0.0);
            }
        }
        eventually("all is said", || server.lines_with("Received 64 bytes on fd 0.") == 5);
        assert_eq!(server.end(Signal::TERM), None);
    }
}

pub(crate) fn a_ping_of_nobody_says_so_and_succeeds() {
    let pair = Pair::new(ETH);
    bind(&pair, "oping");
    // It accepts, and answers nothing.
    bind(&pair, "ocbr");
    let _server = pair.one.start("ocbr", "-l -t 60", "Server started");
    let output = text(&pair.two.run("oping", "-n my_vpn -c 2 -i 10"));
    assert!(output.contains("Server timed out."), "{output}");
    assert!(output.contains("2 packets transmitted, 0 received, 0 out-of-order, 100% packet loss"));
    assert!(!output.contains("rtt"), "{output}");
}

pub(crate) fn an_echo_is_returned() {
    let pair = Pair::new(ETH);
    pair.one.must("irm", "reg name oecho layer my_layer");
    pair.one.must("irm", "bind program oecho name oecho");
    let server = pair.one.start("oecho", "-l", "Starting the server.");
    for words in ["", "--crypt"] {
        let output = text(&pair.two.run("oecho", words));
        assert_eq!(output, "Server replied with Client says hi!\n");
    }
    eventually("both came", || server.lines_with("Message from client is Client says hi!.") == 2);
}

pub(crate) fn a_rate_is_measured_one_way_and_both() {
    let pair = Pair::new(UDP4);
    bind(&pair, "operf");
    let server = pair.one.start("operf", "-l", "started");
    let both = "-n my_vpn -t bi -d 500 -r 2M -s 500";
    let told = text(&pair.two.run("operf", &format!("{both} --json")));
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["received"], told["transmitted"], "{told}");
    let sent = told["transmitted"].as_u64().expect("a number");
    assert!((1..=251).contains(&sent), "{told}");
    let told = text(&pair.two.run("operf", &format!("{both} -C --sleep")));
    assert!(told.contains("--- my_vpn perf statistics ---"), "{told}");
    assert!(told.contains(" 0% packet loss, time: "), "{told}");
    // One way, the server tells.
    let told = text(&pair.two.run("operf", "-n my_vpn -d 200 -r 400 -s 100"));
    assert_eq!(told, "Test finished.\n");
    eventually("the first packet", || server.lines_with("Seqno 0 from fd 2: ") == 1);
    eventually("an end", || server.lines_with("Flow 2 timed out.") == 1);
    // Messages, whose end is told; and a stream.
    for crypt in ["", " -C"] {
        let words = format!("-n my_vpn -q data -d 200 -r 400 -s 100{crypt}");
        assert_eq!(text(&pair.two.run("operf", &words)), "Test finished.\n");
    }
    eventually("an end that is told", || server.lines_with("Flow 4 ended.") == 1);
    let told = text(&pair.two.run("operf", "-n my_vpn -t stream -q data -C -d 300 --json"));
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let bytes = told["bytes"].as_u64().expect("a number");
    assert!(bytes > 0, "{told}");
    let came = format!("Flow 5: {bytes} bytes in ");
    eventually("all of the stream", || server.lines_with(&came) == 1);
}

pub(crate) fn a_constant_bit_rate_is_counted() {
    let pair = Pair::new(ETH);
    bind(&pair, "ocbr");
    let server = pair.one.start("ocbr", "-l -i 0.2 -t 0.5", "Server started, interval is 0.2 s");
    let told = text(&pair.two.run("ocbr", "-n my_vpn -d 1 -r 800k -s 500"));
    let started = "Client started, duration 1, rate 800000 b/s, size 500 B.";
    assert!(told.starts_with(started), "{told}");
    assert!(told.contains("sent statistics: "), "{told}");
    eventually("an end", || server.lines_with("Test on flow 0 timed out") == 1);
    eventually("its lines", || server.lines_with("Flow    0: ") > 1);
}
