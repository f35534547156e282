//! Scenario files: a TOML table whose keys are the flags of its scenario.
//!
//! A file is turned into a command line and parsed as one, so that both know the same keys, values
//! and defaults, and refuse the same mistakes. `--print-toml` goes the other way.

use std::fmt::Write as _;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command as Clap};
use toml::{Table, Value};

/// The key that names the scenario.
const SCENARIO: &str = "scenario";
/// Flags that are no part of a scenario.
const NO_KEYS: [&str; 4] = ["help", "version", "print-toml", "file"];
/// Commands that a file can't name.
const NO_SCENARIOS: [&str; 6] = ["run", "html", "tables", "crowd-part", "canary", "help"];

/// The command line that a file stands for, without the program's name.
///
/// # Errors
/// `Io` when it can't be read, `InvalidValue` when it is no TOML or a key is not a flag's: the
/// message names the file and the key.
pub(crate) fn arguments(declaration: &Clap, path: &Path) -> Result<Vec<String>, clap::Error> {
    let refuse = |kind, text: String| {
        let text = format!("scenario file {}: {text}\n", path.display());
        clap::Error::raw(kind, text)
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| refuse(ErrorKind::Io, error.to_string()))?;
    from_text(declaration, &text).map_err(|text| refuse(ErrorKind::InvalidValue, text))
}

fn from_text(declaration: &Clap, text: &str) -> Result<Vec<String>, String> {
    let table: Table = text.parse().map_err(|error| format!("{error}"))?;
    let Some(Value::String(name)) = table.get(SCENARIO) else {
        return Err(format!("the key `{SCENARIO}` must name a scenario"));
    };
    let scenario = declaration
        .find_subcommand(name)
        .filter(|_| !NO_SCENARIOS.contains(&name.as_str()))
        .ok_or_else(|| format!("there is no scenario `{name}`"))?;
    let mut arguments = vec![name.clone()];
    for (key, value) in table.iter().filter(|(key, _)| *key != SCENARIO) {
        let argument = keys(scenario)
            .find(|argument| argument.get_long() == Some(key))
            .ok_or_else(|| format!("unknown key `{key}` of scenario `{name}`"))?;
        let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
        match value {
            Value::Boolean(true) if is_switch => arguments.push(format!("--{key}")),
            Value::Boolean(false) if is_switch => {}
            _ if is_switch => return Err(format!("key `{key}` must be true or false")),
            Value::String(value) => arguments.push(format!("--{key}={value}")),
            Value::Integer(value) => arguments.push(format!("--{key}={value}")),
            Value::Float(value) => arguments.push(format!("--{key}={value}")),
            Value::Boolean(value) => arguments.push(format!("--{key}={value}")),
            Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                return Err(format!("key `{key}` must be one value"));
            }
        }
    }
    Ok(arguments)
}

/// The file that says what a parsed command line says, defaults included.
pub(crate) fn to_toml(declaration: &Clap, matches: &ArgMatches) -> Option<String> {
    let (name, matches) = matches.subcommand()?;
    let scenario = declaration.find_subcommand(name)?;
    let mut text = format!("{SCENARIO} = \"{name}\"\n");
    for argument in keys(scenario) {
        let (Some(long), id) = (argument.get_long(), argument.get_id().as_str()) else {
            continue;
        };
        let value = matches
            .get_raw(id)
            .and_then(|mut values| values.next_back())
            .and_then(|value| value.to_str())
            .map(str::to_owned)
            .or_else(|| {
                let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
                is_switch.then(|| matches.get_flag(id).to_string())
            });
        if let Some(value) = value {
            // Writing to a String can't fail.
            writeln!(text, "{long} = {}", literal(&value)).ok();
        }
    }
    Some(text)
}

/// A number or a boolean as it is, anything else in quotes.
fn literal(value: &str) -> String {
    let is_plain = matches!(
        format!("x = {value}")
            .parse::<Table>()
            .map(|mut table| table.remove("x")),
        Ok(Some(
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_)
        ))
    );
    if is_plain {
        value.to_owned()
    } else {
        Value::String(value.to_owned()).to_string()
    }
}

fn keys(scenario: &Clap) -> impl Iterator<Item = &Arg> {
    scenario.get_arguments().filter(|argument| {
        argument
            .get_long()
            .is_some_and(|long| !NO_KEYS.contains(&long))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::declaration;

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let error = from_text(&declaration(), text).unwrap_err();
        assert!(error.contains(expected), "`{expected}` is not in: {error}");
    }

    #[test]
    fn keys_are_flags() {
        let text = "scenario = \"conn\"\nclients = 7\nhold = 0.5\nquiet = true\nhost = \"h\"\n";
        let mut arguments = from_text(&declaration(), text).unwrap();
        arguments.sort_unstable();
        let expected = ["--clients=7", "--hold=0.5", "--host=h", "--quiet", "conn"];
        assert_eq!(arguments, expected);
        let text = "scenario = \"conn\"\nquiet = false\n";
        assert_eq!(from_text(&declaration(), text).unwrap(), ["conn"]);
    }

    #[test]
    fn mistakes_are_named() {
        check_refused("clients = 7", "`scenario`");
        check_refused("scenario = \"run\"", "no scenario `run`");
        check_refused("scenario = \"nobody\"", "no scenario `nobody`");
        check_refused(
            "scenario = \"conn\"\nqos = 1",
            "unknown key `qos` of scenario `conn`",
        );
        check_refused(
            "scenario = \"conn\"\nquiet = 3",
            "key `quiet` must be true or false",
        );
        check_refused(
            "scenario = \"conn\"\nclients = [1]",
            "key `clients` must be one value",
        );
        check_refused("scenario = \"conn", "TOML");
    }

    #[test]
    fn every_scenario_reads_back_what_it_prints() {
        for scenario in declaration().get_subcommands() {
            let name = scenario.get_name();
            // The one that needs a process to look at.
            if NO_SCENARIOS.contains(&name) || name == "crowd" {
                continue;
            }
            let printed = crate::parse(["corelane-bench", name]).unwrap();
            let text = printed.toml.as_deref().unwrap();
            let mut arguments = vec!["corelane-bench".to_owned()];
            arguments.extend(from_text(&declaration(), text).unwrap());
            let read = crate::parse(arguments).unwrap();
            assert_eq!(read.toml.as_deref(), Some(text), "{name}");
        }
    }

    #[test]
    fn a_variant_keeps_its_defaults_in_the_file() {
        let line = [
            "corelane-bench",
            "bifro",
            "--part",
            "clean",
            "--durable",
            "--print-toml",
        ];
        let cli = crate::parse(line).unwrap();
        let text = cli.toml.unwrap();
        assert!(cli.print_toml);
        for expected in [
            "part = \"clean\"",
            "rate = 30000",
            "durable = \"all\"",
            "quiet = false",
        ] {
            assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
        }
    }

    #[test]
    fn a_file_runs_and_flags_behind_it_win() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/fleet.toml");
        let line = ["corelane-bench", "run", path, "--rate", "77", "--quiet"];
        let text = crate::parse(line).unwrap().toml.unwrap();
        assert!(text.starts_with("scenario = \"plan\"\n"), "{text}");
        assert!(text.contains("rate = 77\n"), "{text}");
        let error = crate::parse(["corelane-bench", "run", "/none/such.toml"]).unwrap_err();
        assert!(error.to_string().contains("/none/such.toml"), "{error}");
    }

    #[test]
    fn mutated_files() {
        let fleet = include_str!("../scenarios/fleet.toml");
        let samples = [
            "scenario = \"conn\"\nclients = 7\nhold = 0.5\nquiet = true\nhost = \"h\"\n",
            "scenario = \"conn\"\nquiet = false\n",
            fleet,
        ];
        let declaration = declaration();
        crate::mutate::fuzz(&samples.map(|text| text.as_bytes().to_vec()), |bytes| {
            let text = std::str::from_utf8(bytes).unwrap_or("=");
            from_text(&declaration, text).is_ok()
        });
    }
}
