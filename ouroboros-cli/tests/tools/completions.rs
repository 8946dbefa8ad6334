//! Man pages and completions, which each tool makes itself.

use super::*;

#[test]
fn each_tool_tells_its_version_and_its_man_page() {
    let folder = Folder::new();
    for (path, name) in [
        (env!("CARGO_BIN_EXE_irmd"), "irmd"),
        (env!("CARGO_BIN_EXE_irm"), "irm"),
        (env!("CARGO_BIN_EXE_ovpn"), "ovpn"),
        (env!("CARGO_BIN_EXE_oping"), "oping"),
        (env!("CARGO_BIN_EXE_oecho"), "oecho"),
        (env!("CARGO_BIN_EXE_operf"), "operf"),
        (env!("CARGO_BIN_EXE_ocbr"), "ocbr"),
    ] {
        let run = |option: &str| {
            told(tool(path, &socket_in(&folder)).arg(option).output().expect("runs"))
        };
        assert_eq!(run("--version").trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
        let page = run("--generate-man");
        assert!(page.starts_with(&format!(".TH {} 1", name.to_uppercase())), "{page}");
        assert!(page.contains(".SH USAGE"), "{page}");
        if ["irmd", "irm", "ovpn"].contains(&name) {
            for section in ["EXAMPLES", "FILES", "ENVIRONMENT", "EXIT STATUS"] {
                assert!(page.contains(&format!(".SH {section}\n")), "{section}: {page}");
            }
        }
    }
}

#[test]
fn each_tool_has_completions_of_its_options() {
    let folder = Folder::new();
    for (path, option) in [
        (env!("CARGO_BIN_EXE_irmd"), "--version"),
        (env!("CARGO_BIN_EXE_ovpn"), "--server-key"),
        (env!("CARGO_BIN_EXE_oping"), "--count"),
        (env!("CARGO_BIN_EXE_oecho"), "--help"),
        (env!("CARGO_BIN_EXE_operf"), "--test"),
        (env!("CARGO_BIN_EXE_ocbr"), "--size"),
    ] {
        let run = |shell: &str| {
            let arguments = ["--generate-completions", shell];
            tool(path, &socket_in(&folder)).args(arguments).output().expect("runs")
        };
        for shell in ["bash", "zsh", "fish"] {
            let script = told(run(shell));
            assert!(script.contains(option.trim_start_matches('-')), "{script}");
        }
        complaint(run("tcsh"), 2);
    }
}

/// What bash offers behind `line`, of which the last word is completed.
fn offered(script: &Path, line: &str) -> Vec<String> {
    let ask = r#"
        source "$1"
        COMP_WORDS=("${@:2}")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _irm
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", ask, "bash"])
        .arg(script)
        .args(line.split(' '))
        .output()
        .expect("bash runs");
    told(output).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn irm_s_words_are_completed_as_its_parser_expects_them() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    for shell in ["bash", "zsh", "fish"] {
        let script = told(irm(&socket, &format!("completions {shell}")));
        for word in [
            "ipcp",
            "name",
            "flow",
            "key",
            "bind",
            "unbind",
            "register",
            "unregister",
            "completions",
            "create",
            "destroy",
            "bootstrap",
            "list",
            "dns",
            "show",
            "generate",
            "force",
            "program",
            "process",
            "layer",
            "ethertype",
            "sencpath",
            "native",
        ] {
            let mut words = script.split(|c: char| !c.is_ascii_alphabetic());
            assert!(words.any(|other| other == word), "{shell}: {word}");
        }
    }
    let script = folder.path().join("irm.bash");
    fs::write(&script, told(irm(&socket, "completions bash"))).expect("written");
    for (line, words) in [
        ("irm un", "unbind unregister"),
        ("irm flow ", "list"),
        ("irm ipcp b", "bootstrap"),
        ("irm ipcp bootstrap type udp l", "layer"),
        ("irm ipcp bootstrap type ", ""),
        ("irm name create ", ""),
        ("irm name create my_vpn c", "clients ca cert cencpath"),
        ("irm name register my_vpn ", "layer"),
        ("irm key generate ", "of next force"),
        ("irm bind ", "program process name"),
        ("irm completions ", "bash zsh fish"),
        ("irm config ", "check save diff"),
        ("irm config save f ", "force"),
        ("irm st", "status"),
    ] {
        let expected: Vec<_> = words.split_whitespace().collect();
        assert_eq!(offered(&script, line), expected, "{line}");
    }
}
