//! A compiled policy that follows the network: what one node's change costs is what that node
//! touches.

mod catalog;
mod patch;
mod step;

use crate::{
    changed::changed_nodes,
    compile::{CompiledPolicy, compile},
    directory::{Directory, PolicyNode},
    policy::Policy,
};
use catalog::Catalog;
use patch::Patch;
use std::{collections::BTreeSet, sync::Arc};
use step::Step;
use weir_overlay::NodeId;

/// A policy, the network that it is in force in, and what it means there now. Each change says
/// which nodes' answers ([`CompiledPolicy::filter`], [`CompiledPolicy::peers`],
/// [`CompiledPolicy::ways_into`], [`CompiledPolicy::may_hear_from`],
/// [`CompiledPolicy::is_without_ipv4`]) may differ after it: all of those that do, and hardly
/// another.
#[derive(Clone, Debug)]
pub struct LivePolicy {
    policy: Arc<Policy>,
    directory: Directory,
    compiled: CompiledPolicy,
    catalog: Catalog,
}

/// Another policy, compiled for the network of a [`LivePolicy`] and not in force yet.
#[derive(Debug)]
pub struct Replacement {
    policy: Arc<Policy>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// A few rules are put in the place of others.
    Patch(Option<Patch>),
    /// All is.
    Whole(Box<Whole>),
}

#[derive(Debug)]
struct Whole {
    /// What the network is from then on, if that is something else.
    directory: Option<Directory>,
    compiled: CompiledPolicy,
    catalog: Catalog,
    /// The nodes whose answers differ.
    changed: BTreeSet<NodeId>,
}

impl Replacement {
    /// What the policy will mean; none where a few rules differ that are about a few nodes.
    #[must_use]
    pub fn compiled(&self) -> Option<&CompiledPolicy> {
        match &self.way {
            Way::Patch(_) => None,
            Way::Whole(whole) => Some(&whole.compiled),
        }
    }
}

impl LivePolicy {
    /// Compiles the policy for the network.
    #[must_use]
    pub fn new(policy: Arc<Policy>, directory: Directory) -> Self {
        let compiled = compile(&policy, &directory);
        Self {
            catalog: Catalog::of(&policy, &directory.users, &compiled),
            compiled,
            policy,
            directory,
        }
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Who is in the network.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What the policy means in the network now. Equals what [`compile`] makes of the two.
    #[must_use]
    pub const fn compiled(&self) -> &CompiledPolicy {
        &self.compiled
    }

    /// A node joins, or is so from now on; with `None` it leaves. Nothing is touched when it is so
    /// already.
    ///
    /// Changes what the node is part of, in place. Compiles everything only where one node decides
    /// about others: when entries of the policy deny, when the node shares an address with another,
    /// and when an approved route holds an address of a node, which this node's change touches.
    pub fn set_node(&mut self, id: NodeId, node: Option<PolicyNode>) -> BTreeSet<NodeId> {
        let before = self.directory.nodes.get(&id);
        if before == node.as_ref() {
            return BTreeSet::new();
        }
        let step = Step {
            policy: &self.policy,
            catalog: &self.catalog,
            wildcard: &self.directory.wildcard,
            id,
            before,
            after: node.as_ref(),
        };
        let touched = step
            .is_local(&self.compiled)
            .then(|| step.carry_out(&mut self.compiled));
        match node {
            Some(node) => drop(self.directory.nodes.insert(id, node)),
            None => drop(self.directory.nodes.remove(&id)),
        }
        touched.unwrap_or_else(|| self.compile_anew())
    }

    /// Another policy, or the same in a network with other users. Compiles everything.
    pub fn replace(&mut self, policy: Arc<Policy>, directory: Directory) -> BTreeSet<NodeId> {
        self.policy = policy;
        self.directory = directory;
        self.compile_anew()
    }

    /// Compiles another policy, and with `directory` for another network.
    #[must_use]
    pub fn prepare(&self, policy: Arc<Policy>, directory: Option<Directory>) -> Replacement {
        if directory.is_none()
            && let Some(patch) = Patch::of(&self.policy, &policy, &self.compiled)
        {
            let way = Way::Patch(Some(patch));
            return Replacement { policy, way };
        }
        let network = directory.as_ref().unwrap_or(&self.directory);
        let compiled = compile(&policy, network);
        let whole = Whole {
            catalog: Catalog::of(&policy, &network.users, &compiled),
            changed: changed_nodes(&self.compiled, &compiled),
            compiled,
            directory,
        };
        Replacement {
            policy,
            way: Way::Whole(Box::new(whole)),
        }
    }

    /// Puts another policy in force that was prepared for what is in force now, and leaves that in
    /// its place: taking it down takes a while. Gives the nodes whose answers may differ.
    pub fn put_in_force(&mut self, replacement: &mut Replacement) -> BTreeSet<NodeId> {
        std::mem::swap(&mut self.policy, &mut replacement.policy);
        let whole = match &mut replacement.way {
            Way::Whole(whole) => whole,
            Way::Patch(patch) => {
                let patch = patch.take();
                let changed = patch.map(|patch| patch.carry_out(&self.policy, &mut self.compiled));
                return changed.unwrap_or_default();
            }
        };
        std::mem::swap(&mut self.compiled, &mut whole.compiled);
        std::mem::swap(&mut self.catalog, &mut whole.catalog);
        if let Some(directory) = &mut whole.directory {
            std::mem::swap(&mut self.directory, directory);
        }
        std::mem::take(&mut whole.changed)
    }

    fn compile_anew(&mut self) -> BTreeSet<NodeId> {
        let new = compile(&self.policy, &self.directory);
        let changed = changed_nodes(&self.compiled, &new);
        self.catalog = Catalog::of(&self.policy, &self.directory.users, &new);
        self.compiled = new;
        changed
    }
}
