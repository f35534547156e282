//! Which scenario a command line asks for.

use crate::cli::{
    Command, ConnArgs, FaninArgs, FanoutArgs, HearsArg, LoadArgs, OfflineArgs, PlanArgs,
    RetainedArgs, SlowSubArgs, TargetArgs,
};
use crate::scenario::{Filters, Flow, Hears, Scenario};

/// A scenario and the options that go with it.
pub(crate) struct Shape<'a> {
    pub(crate) scenario: Scenario,
    pub(crate) target: &'a TargetArgs,
    pub(crate) load: Option<&'a LoadArgs>,
    /// Seconds that connections are held.
    pub(crate) hold: f64,
}

/// A scenario whose clients publish and subscribe.
type Loaded<'a> = (Scenario, &'a TargetArgs, &'a LoadArgs);

/// The shape of a command; `None` for those that run no clients here.
pub(crate) fn shape(command: &Command) -> Option<Shape<'_>> {
    let (scenario, target, load) = match command {
        Command::Sink(_)
        | Command::Run(_)
        | Command::Html(_)
        | Command::Tables(_)
        | Command::Storage(_)
        | Command::Log(_)
        | Command::State(_)
        | Command::Crowd(_)
        | Command::Canary(_)
        | Command::CrowdPart(_) => return None,
        Command::Conn(args) => return Some(conn(args)),
        Command::P2p(args) => {
            let pairs = (args.pairs, args.pairs);
            (direct("p2p", pairs, &args.load), &args.target, &args.load)
        }
        Command::Fanin(args) => fanin(args),
        Command::Fanout(args) => fanout(args),
        Command::Plan(args) => planned("plan", args),
        Command::Shared(args) => planned("shared", args),
        Command::EmqxRef(args) => planned("emqx-ref", args),
        Command::Bifro(args) => planned("bifro", args),
        Command::Tbmq(args) => planned("tbmq", args),
        Command::Rabbit(args) => planned("rabbit", args),
        Command::Rmqtt(args) => planned("rmqtt", args),
        Command::Nanomq(args) => planned("nanomq", args),
        Command::DurableFan(args) => planned("durable-fan", args),
        Command::SubRate(args) => planned("sub-rate", args),
        Command::SlowSub(args) => slow_sub(args),
        Command::Retained(args) => retained(args),
        Command::Offline(args) => offline(args),
    };
    Some(Shape {
        scenario,
        target,
        load: Some(load),
        hold: 0.0,
    })
}

fn conn(args: &ConnArgs) -> Shape<'_> {
    let scenario = Scenario {
        idle: args.clients,
        flow: Flow::Hold,
        ..empty("conn")
    };
    Shape {
        scenario,
        target: &args.target,
        load: None,
        hold: args.hold,
    }
}

fn fanin(args: &FaninArgs) -> Loaded<'_> {
    let scenario = Scenario {
        hears: Hears::Block,
        filters: Filters::Plus,
        ..direct("fanin", (args.publishers, args.subscribers), &args.load)
    };
    (scenario, &args.target, &args.load)
}

fn fanout(args: &FanoutArgs) -> Loaded<'_> {
    let filters = if args.wildcard {
        Filters::Plus
    } else {
        Filters::Exact
    };
    let scenario = Scenario {
        hears: Hears::All,
        filters,
        ..direct("fanout", (args.publishers, args.subscribers), &args.load)
    };
    (scenario, &args.target, &args.load)
}

fn slow_sub(args: &SlowSubArgs) -> Loaded<'_> {
    let hears = Hears::Slow {
        canaries: args.canaries,
        per_second: args.read_rate,
    };
    let clients = (args.publishers, args.canaries.saturating_add(1));
    let scenario = Scenario {
        hears,
        filters: Filters::Plus,
        ..direct("slow-sub", clients, &args.load)
    };
    (scenario, &args.target, &args.load)
}

fn retained(args: &RetainedArgs) -> Loaded<'_> {
    let scenario = Scenario {
        topics: args.retained.div_ceil(args.publishers),
        hears: Hears::Slice {
            streams: args.matching,
        },
        filters: Filters::Plus,
        flow: Flow::Retained { keep: args.keep },
        ..direct("retained", (args.publishers, args.subscribers), &args.load)
    };
    (scenario, &args.target, &args.load)
}

fn offline(args: &OfflineArgs) -> Loaded<'_> {
    let scenario = Scenario {
        topics: args.sessions,
        common_topics: true,
        hears: Hears::Topic,
        flow: Flow::Offline {
            messages: args.messages,
            restart: args.restart.clone(),
        },
        ..direct("offline", (args.publishers, args.sessions), &args.load)
    };
    (scenario, &args.target, &args.load)
}

fn planned<'a>(name: &'static str, args: &'a PlanArgs) -> (Scenario, &'a TargetArgs, &'a LoadArgs) {
    let mut scenario = direct(name, (args.publishers, args.subscribers), &args.load);
    scenario.filters = args.filters;
    scenario.common_topics = args.common_topics;
    scenario.hears = match args.hears {
        HearsArg::Own => Hears::Own,
        HearsArg::Block => Hears::Block,
        HearsArg::All => Hears::All,
        HearsArg::Share => Hears::Share {
            groups: args.groups,
        },
        HearsArg::Topic => Hears::Topic,
    };
    if args.hears == HearsArg::Topic {
        scenario.topics = args.subscribers;
        scenario.common_topics = true;
    }
    (scenario, &args.target, &args.load)
}

/// Pairs with exact filters.
fn direct(name: &'static str, (publishers, subscribers): (u32, u32), load: &LoadArgs) -> Scenario {
    Scenario {
        publishers,
        subscribers,
        topics: load.topics,
        ..empty(name)
    }
}

fn empty(name: &'static str) -> Scenario {
    Scenario {
        name,
        idle: 0,
        publishers: 0,
        subscribers: 0,
        topics: 1,
        common_topics: false,
        hears: Hears::Own,
        filters: Filters::Exact,
        flow: Flow::Load,
    }
}
