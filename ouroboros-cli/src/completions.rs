//! Shell completions from the tools' own definitions: the options of a tool as clap
//! has them, the words of `irm` as its parser expects them. Not here: any list of
//! either.

use std::{fmt::Write, io};

use structopt::clap::{App, Shell as ClapShell};

use crate::grammar::{self, Shell};

/// The completions of a tool that has options only.
///
/// # Errors
///
/// `shell` is none that is known.
pub fn of_options(tool: &mut App<'_, '_>, shell: &str) -> io::Result<String> {
    let shell: ClapShell = shell
        .parse()
        .map_err(|reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
    let (name, mut script) = (tool.get_name().to_owned(), Vec::new());
    tool.gen_completions_to(name, shell, &mut script);
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The completions of `irm`. Words that are cut short are not looked behind.
pub fn of_irm(shell: Shell) -> String {
    let mut steps = Vec::new();
    walk(&mut Vec::new(), &[], &mut steps);
    // The first one that fits counts: the longest path before its beginning.
    steps.reverse();
    match shell {
        Shell::Bash => bash(&steps),
        Shell::Zsh => zsh(&steps),
        Shell::Fish => fish(&steps),
    }
}

/// The words that may follow some words.
struct Step {
    path: Vec<String>,
    /// A name stands between the path and the words.
    named: bool,
    /// The words may stand anywhere behind the path: keywords, mostly.
    last: bool,
    words: Vec<String>,
}

impl Step {
    /// Returns a pattern of a shell for the words before the cursor, each with a space behind
    /// it, where `any` stands for anything.
    fn pattern(&self, any: &str) -> String {
        let path: String = self.path.iter().map(|word| format!("{word} ")).collect();
        match (self.named, self.last) {
            (true, _) => format!("\"{path}\"?{any}"),
            (false, true) => format!("\"{path}\"{any}"),
            (false, false) => format!("\"{path}\""),
        }
    }
}

fn walk(path: &mut Vec<String>, before: &[String], steps: &mut Vec<Step>) {
    let behind_name = || grammar::expected(&[&path[..], &["name".to_owned()]].concat());
    let direct = grammar::expected(path);
    let named = direct.is_empty();
    let words = if named { behind_name() } else { direct };
    // Behind a keyword and its value there are the same keywords again.
    if words.is_empty() || words == before {
        return;
    }
    let at = steps.len();
    steps.push(Step { path: path.clone(), named, last: true, words: words.clone() });
    for word in &words {
        path.push(word.clone());
        walk(path, &words, steps);
        path.pop();
    }
    steps[at].last = steps.len() == at + 1;
}

fn cases(steps: &[Step], before: &str, after: &str) -> String {
    steps.iter().fold(String::new(), |mut text, step| {
        let (pattern, words) = (step.pattern("*"), step.words.join(" "));
        let _ = writeln!(text, "        {pattern}) offered={before}{words}{after} ;;");
        text
    })
}

fn bash(steps: &[Step]) -> String {
    let cases = cases(steps, "\"", "\"");
    format!(
        r#"_irm() {{
    local offered= typed= word previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do typed+="$word "; done
    case "$typed" in
{cases}    esac
    # Behind a keyword there is its value.
    [[ " $offered " == *" $previous "* ]] && offered=
    COMPREPLY=($(compgen -W "$offered" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _irm irm
"#
    )
}

fn zsh(steps: &[Step]) -> String {
    let cases = cases(steps, "(", ")");
    format!(
        r#"#compdef irm
_irm() {{
    local typed= word
    local -a offered
    for word in "${{(@)words[2,CURRENT-1]}}"; do typed+="$word "; done
    case "$typed" in
{cases}    esac
    # Behind a keyword there is its value.
    if (( ${{offered[(Ie)${{words[CURRENT-1]}}]}} )); then _files; else compadd -a offered; fi
}}
if [[ "$funcstack[1]" == _irm ]]; then _irm "$@"; else compdef _irm irm; fi
"#
    )
}

fn fish(steps: &[Step]) -> String {
    let cases = steps.iter().fold(String::new(), |mut text, step| {
        let (pattern, words) = (step.pattern("'*'"), step.words.join(" "));
        let _ = writeln!(text, "        case {pattern}\n            set offered {words}");
        text
    });
    // `?` is an ordinary character for `case`: a name has one at least anyway.
    let cases = cases.replace("\"?'*'", "\"'*'");
    format!(
        r#"function __irm_offered
    set -l typed (commandline -opc)
    set -l offered
    set -e typed[1]
    set -l line (string join '' -- $typed' ')
    switch "$line"
{cases}    end
    # Behind a keyword there is its value.
    contains -- "$typed[-1]" $offered; or string join \n -- $offered
end
complete -c irm -a '(__irm_offered)'
"#
    )
}
