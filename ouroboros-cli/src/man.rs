//! Man pages from the tools' own definitions: what `--help` says, as roff. Not
//! here: anything that `--help` does not say.

use structopt::clap::App;

/// The man page of `tool`, in section 1.
pub fn page(tool: &mut App<'_, '_>) -> String {
    let name = tool.get_name().to_owned();
    let mut help = Vec::new();
    // A vector takes everything.
    let _ = tool.write_long_help(&mut help);
    let help = String::from_utf8_lossy(&help);
    // Its first line is the name and the version.
    let (title, rest) = help.split_once('\n').unwrap_or((&help, ""));
    let (about, rest) = rest.trim_start().split_once('\n').unwrap_or((rest, ""));
    let mut page = format!(
        ".TH {} 1 \"\" \"{}\" Ouroboros\n.SH NAME\n{name} \\- {}\n.SH DESCRIPTION\n.nf\n",
        name.to_uppercase(),
        escaped(title),
        escaped(about.trim()),
    );
    for line in rest.lines() {
        match line.strip_suffix(':') {
            Some(heading) if heading.chars().all(|c| c.is_ascii_uppercase() || c == ' ') => {
                page.push_str(&format!(".fi\n.SH {heading}\n.nf\n"));
            }
            _ => {
                page.push_str(&escaped(line.trim_end()));
                page.push('\n');
            }
        }
    }
    page.push_str(".fi\n");
    page
}

/// Text that roff takes as it is.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use structopt::clap::Arg;

    use super::*;

    #[test]
    fn a_page_has_the_tool_s_name_options_and_no_stray_requests() {
        let option = Arg::with_name("deep").long("deep").help("Digs, see .hidden");
        let mut tool = App::new("mole").version("1.2").about("Digs a tunnel").arg(option);
        let page = page(&mut tool);
        assert!(page.starts_with(".TH MOLE 1 \"\" \"mole 1.2\" Ouroboros\n"), "{page}");
        assert!(page.contains("\nmole \\- Digs a tunnel\n"), "{page}");
        assert!(page.contains("\n.SH USAGE\n"), "{page}");
        assert!(page.contains("\\-\\-deep"), "{page}");
        let requests = page.lines().filter(|line| line.starts_with('.'));
        let known = [".TH", ".SH", ".nf", ".fi"];
        assert!(requests.into_iter().all(|line| known.iter().any(|k| line.starts_with(k))));
    }
}
