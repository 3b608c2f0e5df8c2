//! The node as a person must see it at 3 a.m.: what is mounted for whom, who holds what, and what to do. `penstock doctor`
//! prints it.

use std::collections::BTreeSet;
use std::fmt::Write;

use penstock_mount::forms::Form;

use crate::keeper::Keeper;
use crate::node::Node;

/// What became of the choice of the form.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The form.
    pub form: Form,
    /// Why it was chosen.
    pub why: String,
}

/// The report, a few lines for each revision.
pub fn report(node: &Node, keeper: &Keeper, chosen: &Chosen) -> String {
    let mut text = format!(
        "node {}\nform of new volumes: {:?}: {}\n",
        node.name, chosen.form, chosen.why
    );
    let mut advice = BTreeSet::new();
    let holders = keeper.holders();
    for holder in &holders {
        let is = |yes: bool, word: &str| if yes { word.to_owned() } else { format!("NOT {word}") };
        let what = if holder.serves {
            "a mounter"
        } else {
            "a csi container that was replaced"
        };
        let state = [is(holder.answers, "answering"), is(holder.complete, "complete")].join(", ");
        line(
            &mut text,
            &format!("{what} is connected: {state}, holds {} connections", holder.holds),
        );
        if !holder.answers {
            advice.insert("the mounter hangs: its supervisor kills it after 10 s; else delete the pod penstock-mounter of this node");
        }
    }
    if !holders.iter().any(|holder| holder.serves) {
        line(&mut text, "no mounter is connected");
        advice.insert("look at the pod penstock-mounter of this node: kubectl describe pod -n penstock-system -l app.kubernetes.io/component=mounter");
    }
    let mounted = node.revisions.shown();
    line(&mut text, &format!("{} revisions are mounted", mounted.len()));
    for (revision, number, form) in mounted {
        let held = if keeper.check_served(number).is_ok() {
            "held here and served"
        } else if keeper.keeps(number) {
            advice.insert("reads wait for a mounter, and fail after spec.readTimeoutSeconds of their Dataset");
            "held here, NOT served"
        } else {
            advice.insert("what nobody holds is lost: start the pods that show it again");
            "LOST: what is in memory can be read, nothing else"
        };
        let pods = node.revisions.pods_of(|other| other == number);
        // Not all of it: whoever knows an id can ask cache nodes for the data, and this page is open to the cluster.
        let revision = revision.to_string();
        let revision = &revision[..12];
        line(
            &mut text,
            &format!("revision {revision}…, connection {number}, form {form:?}: {held}"),
        );
        for pod in pods {
            line(&mut text, &format!("  pod with uid {pod}"));
        }
    }
    for what in advice {
        line(&mut text, &format!("-> {what}"));
    }
    text
}

fn line(text: &mut String, line: &str) {
    // A String has room.
    let _ = writeln!(text, "{line}");
}
