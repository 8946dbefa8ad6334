//! Whether a ruleset of nftables lets a UDP port through, as far as can be told from it
//! without being the kernel. Not here: asking for the ruleset.

use serde_json::Value;

/// The first chain for what comes in that drops by default, and in whose table no rule
/// accepts UDP to `port`, as `FAMILY TABLE CHAIN`. `ruleset` is what `nft -j list ruleset`
/// prints; of a text that is something else nothing is said.
pub(super) fn drops(ruleset: &str, port: u16) -> Option<String> {
    let parsed: Value = serde_json::from_str(ruleset).ok()?;
    let objects = parsed["nftables"].as_array()?;
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    let dropping = chains.filter(|chain| {
        chain["hook"] == "input"
            && chain["policy"] == "drop"
            && ["inet", "ip"].iter().any(|family| chain["family"] == *family)
    });
    let rules: Vec<_> = objects.iter().filter_map(|object| object.get("rule")).collect();
    let mut closed = dropping.filter(|chain| {
        let of_table =
            |rule: &&&Value| rule["table"] == chain["table"] && rule["family"] == chain["family"];
        !rules.iter().filter(of_table).any(|rule| accepts(rule, port))
    });
    let chain = closed.next()?;
    let text = |key: &str| chain[key].as_str().map(str::to_owned);
    Some(format!("{} {} {}", text("family")?, text("table")?, text("name")?))
}

/// Returns `true` if the rule accepts UDP to the port, or everything.
fn accepts(rule: &Value, port: u16) -> bool {
    let Some(parts) = rule["expr"].as_array() else { return false };
    let accept = parts.iter().any(|part| part.get("accept").is_some());
    let matches: Vec<_> = parts.iter().filter_map(|part| part.get("match")).collect();
    let to_port = matches.iter().any(|part| {
        let payload = &part["left"]["payload"];
        let udp = ["udp", "th"].iter().any(|protocol| payload["protocol"] == *protocol);
        udp && payload["field"] == "dport" && part["op"] != "!=" && holds(&part["right"], port)
    });
    accept && (to_port || matches.is_empty())
}

/// Returns `true` if a number, a range or a set has the port in it.
fn holds(right: &Value, port: u16) -> bool {
    let is_port = |value: &Value| value.as_u64() == Some(port.into());
    if let Some(set) = right["set"].as_array() {
        return set.iter().any(|part| holds(part, port));
    }
    if let Some([first, last]) = right["range"].as_array().map(Vec::as_slice) {
        let within = |first: u64, last: u64| (first..=last).contains(&port.into());
        return first.as_u64().zip(last.as_u64()).is_some_and(|(a, b)| within(a, b));
    }
    // A set with a name of its own: what is in it is not known here.
    is_port(right) || right.as_str().is_some_and(|name| name.starts_with('@'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ruleset(policy: &str, rules: &[Value]) -> String {
        let chain = json!({"chain": {"family": "inet", "table": "filter", "name": "input",
            "hook": "input", "prio": 0, "policy": policy}});
        let rule = |expr: &Value| json!({"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": expr}});
        let objects: Vec<_> = [chain].into_iter().chain(rules.iter().map(rule)).collect();
        json!({ "nftables": objects }).to_string()
    }

    fn udp(right: Value, verdict: Value) -> Value {
        let left = json!({"payload": {"protocol": "udp", "field": "dport"}});
        json!([{"match": {"op": "==", "left": left, "right": right}}, verdict])
    }

    #[test]
    fn a_port_is_open_if_a_rule_accepts_it() {
        let (accept, drop) = (json!({"accept": null}), json!({"drop": null}));
        let established = json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}},
            "right": ["established", "related"]}}, accept]);
        let closed = Some("inet filter input".to_owned());
        for (policy, rules, expected) in [
            ("accept", vec![], None),
            ("drop", vec![], closed.clone()),
            ("drop", vec![established.clone()], closed.clone()),
            ("drop", vec![established, udp(json!(3435), accept.clone())], None),
            ("drop", vec![udp(json!(3436), accept.clone())], closed.clone()),
            ("drop", vec![udp(json!(3435), drop)], closed.clone()),
            ("drop", vec![udp(json!({"set": [53, 3435]}), accept.clone())], None),
            ("drop", vec![udp(json!({"range": [3000, 4000]}), accept.clone())], None),
            ("drop", vec![udp(json!({"range": [4000, 5000]}), accept.clone())], closed),
            ("drop", vec![json!([accept])], None),
        ] {
            assert_eq!(drops(&ruleset(policy, &rules), 3435), expected, "{policy} {rules:?}");
        }
        assert_eq!(drops("nonsense", 3435), None);
        assert_eq!(drops("{}", 3435), None);
    }
}
