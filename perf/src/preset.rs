//! The scenarios that are the general one with other defaults, and those defaults.
//!
//! Each is what a peer has published (`perf/README.md` says where), scaled to one core for the
//! broker and one for the generator; every number is a flag, so it scales to other machines.

use std::ffi::OsString;

use clap::{ArgMatches, Command as Clap, CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command};
use crate::scenario_file;

/// A flag's long name and its default in a preset.
type Default = (&'static str, &'static str);

/// A scenario with defaults of its own.
struct Preset {
    name: &'static str,
    defaults: &'static [Default],
    /// Variants that `--part` chooses: what differs from `defaults`, the first one without it.
    parts: &'static [(&'static str, &'static [Default])],
}

const PRESETS: &[Preset] = &[
    Preset {
        name: "shared",
        defaults: &[
            ("publishers", "5000"),
            ("subscribers", "50"),
            ("hears", "share"),
            ("filters", "hash"),
            ("mqtt-version", "5"),
            ("qos", "1"),
            ("rate", "5000"),
            ("sources", "4"),
        ],
        parts: &[],
    },
    Preset {
        name: "emqx-ref",
        defaults: &[
            ("publishers", "500"),
            ("subscribers", "500"),
            ("size", "128"),
            ("qos", "1"),
            ("rate", "5000"),
        ],
        parts: &[
            ("p2p", &[]),
            ("payload", &[("size", "1024"), ("rate", "10000")]),
            (
                "fan-in",
                &[
                    ("publishers", "1000"),
                    ("subscribers", "50"),
                    ("hears", "share"),
                    ("filters", "plus"),
                    ("groups", "10"),
                ],
            ),
            (
                "fan-out",
                &[
                    ("publishers", "10"),
                    ("subscribers", "200"),
                    ("hears", "all"),
                    ("rate", "125"),
                ],
            ),
        ],
    },
    Preset {
        name: "bifro",
        defaults: &[
            ("publishers", "300"),
            ("subscribers", "300"),
            ("size", "32"),
            ("qos", "1"),
            ("rate", "15000"),
            ("durable", "subscribers"),
        ],
        parts: &[
            ("persistent", &[]),
            (
                "persistent-many",
                &[
                    ("publishers", "3000"),
                    ("subscribers", "3000"),
                    ("size", "256"),
                    ("rate", "3000"),
                    ("sources", "4"),
                ],
            ),
            (
                "clean",
                &[("qos", "0"), ("rate", "30000"), ("durable", "none")],
            ),
            (
                "shared",
                &[
                    ("publishers", "5000"),
                    ("subscribers", "50"),
                    ("hears", "share"),
                    ("filters", "hash"),
                    ("rate", "5000"),
                    ("durable", "none"),
                    ("sources", "4"),
                ],
            ),
            (
                "fan-out",
                &[
                    ("publishers", "1"),
                    ("subscribers", "10000"),
                    ("hears", "all"),
                    ("qos", "0"),
                    ("rate", "5"),
                    ("durable", "none"),
                    ("sources", "4"),
                ],
            ),
        ],
    },
    Preset {
        name: "tbmq",
        defaults: &[
            ("publishers", "10"),
            ("subscribers", "1000"),
            ("hears", "all"),
            ("filters", "hash"),
            ("size", "66"),
            ("rate", "100"),
        ],
        parts: &[
            ("fan-out", &[]),
            (
                "p2p",
                &[
                    ("publishers", "2000"),
                    ("subscribers", "2000"),
                    ("hears", "own"),
                    ("filters", "plus"),
                    ("size", "62"),
                    ("qos", "1"),
                    ("rate", "2000"),
                    ("durable", "subscribers"),
                    ("sources", "4"),
                ],
            ),
        ],
    },
    Preset {
        name: "rabbit",
        defaults: &[
            ("publishers", "100"),
            ("subscribers", "100"),
            ("size", "100"),
            ("qos", "1"),
            ("window", "1"),
            ("count", "10000"),
            ("warm-up", "0"),
            ("duration", "600"),
        ],
        parts: &[],
    },
    Preset {
        name: "rmqtt",
        defaults: &[
            ("publishers", "4"),
            ("subscribers", "15000"),
            ("hears", "topic"),
            ("sources", "4"),
        ],
        parts: &[],
    },
    Preset {
        name: "nanomq",
        defaults: &[
            ("publishers", "20"),
            ("subscribers", "500"),
            ("hears", "all"),
            ("topics", "3"),
            ("common-topics", "true"),
            ("rate", "1000"),
        ],
        parts: &[],
    },
    Preset {
        name: "durable-fan",
        defaults: &[
            ("publishers", "1"),
            ("subscribers", "1000"),
            ("hears", "topic"),
            ("qos", "1"),
            ("rate", "100"),
            ("durable", "subscribers"),
        ],
        parts: &[],
    },
    Preset {
        name: "sub-rate",
        defaults: &[
            ("publishers", "1"),
            ("subscribers", "1"),
            ("topics", "500"),
            ("qos", "1"),
            ("count", "500"),
            ("warm-up", "0"),
        ],
        parts: &[
            ("one-packet", &[]),
            (
                "one-by-one",
                &[
                    ("topics", "10000"),
                    ("count", "10000"),
                    ("per-subscribe", "1"),
                ],
            ),
        ],
    },
    Preset {
        name: "slow-sub",
        defaults: &[
            ("publishers", "10100"),
            ("qos", "1"),
            ("rate", "10100"),
            ("sources", "4"),
        ],
        parts: &[],
    },
    Preset {
        name: "retained",
        defaults: &[("qos", "1"), ("size", "16"), ("window", "100")],
        parts: &[],
    },
    Preset {
        name: "offline",
        defaults: &[("qos", "1"), ("window", "100"), ("durable", "subscribers")],
        parts: &[],
    },
];

/// The command line's declaration, with the presets' defaults in it.
pub(crate) fn declaration() -> Clap {
    let mut command = Cli::command().args_override_self(true);
    for preset in PRESETS {
        command = command.mut_subcommand(preset.name, |scenario| with_defaults(scenario, preset));
    }
    command
}

/// Parses a command line, program name first; `run FILE` is replaced by what the file says.
///
/// # Errors
/// clap's, which names the argument that is wrong; `--help` and `--version` are errors too.
pub fn parse<I>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let cli = parse_line(arguments)?;
    let Command::Run(args) = &cli.command else {
        return Ok(cli);
    };
    let mut line = vec![OsString::from("corelane-bench")];
    let file = scenario_file::arguments(&declaration(), &args.file)?;
    line.extend(file.into_iter().map(OsString::from));
    line.extend(args.flags.iter().map(OsString::from));
    let print_toml = cli.print_toml;
    let mut cli = parse_line(line)?;
    cli.print_toml |= print_toml;
    Ok(cli)
}

fn parse_line<I>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let mut command = declaration();
    let mut matches: ArgMatches = command.try_get_matches_from_mut(arguments)?;
    let toml = scenario_file::to_toml(&command, &matches);
    let cli =
        Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok(Cli { toml, ..cli })
}

fn with_defaults(mut scenario: Clap, preset: &'static Preset) -> Clap {
    scenario = scenario.args_override_self(true);
    for (flag, value) in preset.defaults {
        let id = flag.replace('-', "_");
        scenario = scenario.mut_arg(id, |argument| argument.default_value(*value));
    }
    for (part, differences) in preset.parts {
        for (flag, value) in *differences {
            let id = flag.replace('-', "_");
            scenario = scenario.mut_arg(id, |argument| {
                argument.default_value_if("part", *part, Some(*value))
            });
        }
    }
    let names: Vec<&'static str> = preset.parts.iter().map(|(name, _)| *name).collect();
    if let Some(first) = names.first().copied() {
        scenario = scenario.mut_arg("part", |argument| {
            argument
                .default_value(first)
                .value_parser(names)
                .hide(false)
        });
    }
    scenario
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> crate::cli::PlanArgs {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let command = parse(words).unwrap().command;
        let (Command::Shared(args) | Command::EmqxRef(args) | Command::Bifro(args)) = command
        else {
            panic!("{command:?}");
        };
        args
    }

    #[test]
    fn the_declaration_is_consistent() {
        declaration().debug_assert();
    }

    #[test]
    fn a_preset_has_its_own_defaults_and_flags_override_them() {
        let args = plan("shared");
        assert_eq!(
            (args.publishers, args.subscribers, args.load.qos),
            (5_000, 50, 1)
        );
        let args = plan("shared --publishers 7 --qos 0");
        assert_eq!(
            (args.publishers, args.subscribers, args.load.qos),
            (7, 50, 0)
        );
    }

    #[test]
    fn a_part_changes_the_defaults_but_not_the_flags() {
        let args = plan("bifro");
        assert_eq!((args.publishers, args.load.size), (300, 32));
        let args = plan("bifro --part persistent-many");
        assert_eq!((args.publishers, args.load.size), (3_000, 256));
        let args = plan("bifro --part persistent-many --size 17");
        assert_eq!((args.publishers, args.load.size), (3_000, 17));
        let words = ["corelane-bench", "bifro", "--part", "none-such"];
        assert!(parse(words).unwrap_err().to_string().contains("persistent"));
        assert!(parse(["corelane-bench", "shared", "--part", "p2p"]).is_err());
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts() {
        assert_eq!(plan("emqx-ref --rate 1 --rate 2").load.rate, 2);
    }
}
