//! Random schedules of kills: a node in memory, whose processes start, speak, and die at any moment. As long as one process
//! holds a connection, no request on it is lost, whether the kernel can send it again or mounters find it in a ledger.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use penstock_protocol::connection::Unanswered;
use penstock_protocol::ids::ConnectionId;
use penstock_supervisor::Kept;
use penstock_supervisor::letter::Letter;
use proptest::prelude::*;

use super::{LinkId, Step, Takeover};

/// A descriptor; the connection lives as long as one of them.
type Descriptor = Rc<()>;

/// A request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Pending,
    /// Read from the connection by the worker with this number.
    Taken(u64),
}

/// A connection, as the kernel has it.
struct Connection {
    descriptors: Weak<()>,
    requests: Vec<Request>,
}

/// A container: what its supervisor keeps, and its worker, if it runs.
struct Container<W> {
    supervisor: Kept<Descriptor>,
    worker: Option<W>,
}

struct Csi {
    takeover: Takeover,
    descriptors: BTreeMap<ConnectionId, Descriptor>,
}

struct Mounter {
    number: u64,
    link: Option<LinkId>,
    sessions: BTreeMap<ConnectionId, Descriptor>,
}

struct Node {
    unanswered: Unanswered,
    connections: BTreeMap<ConnectionId, Connection>,
    csi: Option<Container<Csi>>,
    mounters: Vec<Container<Mounter>>,
    numbers: u64,
    /// csi began while mounters may have been there that are not connected.
    is_new: bool,
}

/// What happens next; the number chooses among what it could happen to.
#[derive(Clone, Copy, Debug)]
enum Event {
    StartCsi,
    AddMounter,
    StartMounter(usize),
    Connect(usize),
    Work(usize),
    /// As Work, but something happens before csi noted what was done.
    Interrupted(usize, Interruption),
    Mount,
    Unmount(usize),
    Ask(usize),
    Silent(usize),
    Heard(usize),
    Take(usize),
    Answer(usize),
    /// A mounter looks into the ledgers.
    Look(usize),
    KillCsi,
    KillMounter(usize),
    RemoveCsi,
    RemoveMounter(usize),
}

/// What comes between a step and its note.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    CsiDies,
    MounterDies,
    Unmount,
    /// Another mounter takes what it can, and its pod goes.
    AnotherGoes,
}

fn event() -> impl Strategy<Value = Event> {
    let some = any::<usize>;
    prop_oneof![
        3 => Just(Event::StartCsi),
        1 => Just(Event::AddMounter),
        3 => some().prop_map(Event::StartMounter),
        4 => some().prop_map(Event::Connect),
        8 => some().prop_map(Event::Work),
        2 => (some(), interruption()).prop_map(|(which, interruption)| Event::Interrupted(which, interruption)),
        2 => Just(Event::Mount),
        1 => some().prop_map(Event::Unmount),
        4 => some().prop_map(Event::Ask),
        1 => some().prop_map(Event::Silent),
        1 => some().prop_map(Event::Heard),
        4 => some().prop_map(Event::Take),
        3 => some().prop_map(Event::Answer),
        1 => some().prop_map(Event::Look),
        1 => Just(Event::KillCsi),
        2 => some().prop_map(Event::KillMounter),
        1 => Just(Event::RemoveCsi),
        1 => some().prop_map(Event::RemoveMounter),
    ]
}

fn interruption() -> impl Strategy<Value = Interruption> {
    prop_oneof![
        Just(Interruption::CsiDies),
        Just(Interruption::MounterDies),
        Just(Interruption::Unmount),
        Just(Interruption::AnotherGoes),
    ]
}

impl Node {
    /// A node that has worked for a while: two mounters, one connection.
    fn at_work(unanswered: Unanswered) -> Self {
        let mut node = Self {
            unanswered,
            connections: BTreeMap::new(),
            csi: None,
            mounters: Vec::new(),
            numbers: 0,
            is_new: false,
        };
        node.happen(Event::AddMounter);
        node.come_to_rest();
        node.happen(Event::Mount);
        node.happen(Event::AddMounter);
        node.start_mounter(1);
        node.come_to_rest();
        node
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The kernel is asked to send again what was taken.
    fn resend(&mut self, id: ConnectionId) {
        match self.connections.get_mut(&id) {
            Some(connection) if self.unanswered == Unanswered::Resent => connection.requests.fill(Request::Pending),
            _ => {}
        }
    }

    /// The mounter with this number begins to serve a connection.
    fn begin(&mut self, number: u64, id: ConnectionId) {
        self.resend(id);
        self.adopt(number, id);
    }

    /// It goes on with what the dead have left in the ledger. What the living took is theirs.
    fn adopt(&mut self, number: u64, id: ConnectionId) {
        let workers = self.mounters.iter().filter_map(|container| container.worker.as_ref());
        let living: Vec<_> = workers.map(|worker| worker.number).collect();
        match self.connections.get_mut(&id) {
            Some(connection) if self.unanswered == Unanswered::InLedger => {
                let is_left = |request: &&mut Request| matches!(request, Request::Taken(by) if !living.contains(by));
                let left = connection.requests.iter_mut().filter(is_left);
                left.for_each(|request| *request = Request::Taken(number));
            }
            _ => {}
        }
    }

    fn look(&mut self, which: usize) {
        let mounters = self.mounters.iter().filter_map(|container| container.worker.as_ref());
        let Some(mounter) = nth(mounters, which) else { return };
        let (number, ids) = (mounter.number, mounter.sessions.keys().copied().collect::<Vec<_>>());
        ids.into_iter().for_each(|id| self.adopt(number, id));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::StartCsi => self.start_csi(),
            Event::AddMounter if self.mounters.len() < 3 => self.mounters.push(Container {
                supervisor: Kept::default(),
                worker: None,
            }),
            Event::AddMounter => {}
            Event::StartMounter(which) => self.start_mounter(which),
            Event::Connect(which) => self.connect(which),
            Event::Work(which) => self.work(which, None),
            Event::Interrupted(which, interruption) => self.work(which, Some(interruption)),
            Event::Mount => self.mount(),
            Event::Unmount(which) => self.unmount(which),
            Event::Ask(which) => {
                if let Some(connection) = nth(self.connections.values_mut(), which) {
                    connection.requests.push(Request::Pending);
                }
            }
            Event::Silent(which) => self.hear(which, false),
            Event::Heard(which) => self.hear(which, true),
            Event::Take(which) => self.take(which),
            Event::Answer(which) => self.answer(which),
            Event::Look(which) => self.look(which),
            Event::KillCsi => self.end_csi_worker(),
            Event::KillMounter(which) => self.end_mounter_worker(which),
            Event::RemoveCsi => {
                let others = self.held_by_mounters();
                if self.connections.keys().all(|id| others.contains(id)) {
                    self.end_csi_worker();
                    self.csi = None;
                }
            }
            Event::RemoveMounter(which) => self.remove_mounter(which),
        }
    }

    fn start_csi(&mut self) {
        let container = self.csi.get_or_insert_with(|| Container {
            supervisor: Kept::default(),
            worker: None,
        });
        if container.worker.is_some() {
            return;
        }
        let mut csi = Csi {
            takeover: Takeover::default(),
            descriptors: BTreeMap::new(),
        };
        let mut gone = Vec::new();
        for entry in container.supervisor.entries() {
            let id = ConnectionId(entry.id);
            if self.connections.contains_key(&id) {
                csi.takeover.kept(id, None);
                csi.descriptors.insert(id, entry.descriptors.clone());
            } else {
                gone.push(entry.id);
            }
        }
        for id in gone {
            container.supervisor.note(Letter::Forget(id), Rc::default());
        }
        container.worker = Some(csi);
        self.is_new = true;
    }

    fn start_mounter(&mut self, which: usize) {
        let number = self.number();
        let Some(container) = nth(self.mounters.iter_mut(), which) else {
            return;
        };
        if container.worker.is_some() {
            return;
        }
        let sessions = container.supervisor.entries();
        let sessions: BTreeMap<_, _> = sessions
            .map(|entry| (ConnectionId(entry.id), entry.descriptors.clone()))
            .collect();
        let ids: Vec<_> = sessions.keys().copied().collect();
        container.worker = Some(Mounter {
            number,
            link: None,
            sessions,
        });
        // Before it reads anything: otherwise csi would not notice its end.
        self.connect_one(|mounter| mounter.number == number, 0);
        for id in ids {
            self.begin(number, id);
        }
    }

    fn connect(&mut self, which: usize) {
        self.connect_one(|_| true, which);
    }

    fn connect_one(&mut self, is_meant: impl Fn(&Mounter) -> bool, which: usize) {
        let link = self.number();
        let Some(csi) = self.csi.as_mut().and_then(|container| container.worker.as_mut()) else {
            return;
        };
        let mounters = self
            .mounters
            .iter_mut()
            .filter_map(|container| container.worker.as_mut());
        let unlinked = mounters.filter(|mounter| mounter.link.is_none() && is_meant(mounter));
        let Some(mounter) = nth(unlinked, which) else {
            return;
        };
        mounter.link = Some(link);
        csi.takeover.joined(link, true, mounter.sessions.keys().copied());
    }

    /// One step with one mounter.
    fn work(&mut self, which: usize, interruption: Option<Interruption>) {
        let Some(csi) = self.csi.as_ref().and_then(|container| container.worker.as_ref()) else {
            return;
        };
        let linked = self.mounters.iter().enumerate().filter_map(|(at, container)| {
            let link = container.worker.as_ref()?.link?;
            let todo = csi.takeover.todo(link);
            (!todo.is_empty()).then(|| (at, link, todo[which % todo.len()]))
        });
        let linked: Vec<_> = linked.collect();
        let Some((at, link, step)) = nth(linked.into_iter(), which) else {
            return;
        };
        let csi = self.csi.as_mut().and_then(|container| container.worker.as_mut());
        if let (Step::Resend(id), Some(csi)) = (step, csi) {
            csi.takeover.ask_resend(link, id, false);
        }
        let given = self.perform(at, step);
        match interruption {
            Some(Interruption::CsiDies) => return self.end_csi_worker(),
            Some(Interruption::MounterDies) => self.end_mounter_worker_at(at),
            Some(Interruption::Unmount) => self.unmount(which),
            Some(Interruption::AnotherGoes) => {
                if let Some(other) = (0..self.mounters.len()).find(|other| *other != at) {
                    self.take_with(other);
                    self.remove_mounter(other);
                }
            }
            None => {}
        }
        let Some(container) = self.csi.as_mut() else { return };
        let Some(csi) = container.worker.as_mut() else { return };
        match (step, given) {
            (Step::TakeBack(id), Some(descriptor)) if self.connections.contains_key(&id) => {
                container
                    .supervisor
                    .note(Letter::Keep(id.0, Vec::new()), descriptor.clone());
                csi.descriptors.insert(id, descriptor);
                csi.takeover.kept(id, None);
            }
            (Step::TakeBack(id), Some(_)) => csi.takeover.unwanted(id),
            (Step::TakeBack(id), None) => csi.takeover.done(link, Step::Stop(id)),
            _ => csi.takeover.done(link, step),
        }
    }

    /// The mounter's part of a step, and the kernel's.
    fn perform(&mut self, at: usize, step: Step) -> Option<Descriptor> {
        let kept = |id: &ConnectionId| {
            let csi = self.csi.as_ref()?.worker.as_ref()?;
            csi.descriptors.get(id).cloned()
        };
        match step {
            Step::TakeBack(id) => self.mounters[at].worker.as_ref()?.sessions.get(&id).cloned(),
            Step::HandOver(id) => {
                let descriptor = kept(&id)?;
                let container = &mut self.mounters[at];
                container
                    .supervisor
                    .note(Letter::Keep(id.0, Vec::new()), descriptor.clone());
                let worker = container.worker.as_mut()?;
                worker.sessions.insert(id, descriptor);
                let number = worker.number;
                self.begin(number, id);
                None
            }
            Step::Stop(id) => {
                let container = &mut self.mounters[at];
                container.supervisor.note(Letter::Forget(id.0), Rc::default());
                container.worker.as_mut()?.sessions.remove(&id);
                None
            }
            Step::Resend(id) => {
                self.resend(id);
                None
            }
            Step::Complete => None,
        }
    }

    /// A pod starts: csi lets the newest mounter serve a fresh connection.
    fn mount(&mut self) {
        let id = ConnectionId(u128::from(self.number()).to_be_bytes());
        let Some(container) = self.csi.as_mut() else { return };
        let Some(csi) = container.worker.as_mut() else { return };
        let Some(link) = csi.takeover.newest() else { return };
        let serving = self
            .mounters
            .iter_mut()
            .find(|container| container.worker.as_ref().and_then(|worker| worker.link) == Some(link));
        let Some(mounter) = serving else { return };
        let descriptor: Descriptor = Rc::default();
        for supervisor in [&mut container.supervisor, &mut mounter.supervisor] {
            supervisor.note(Letter::Keep(id.0, Vec::new()), descriptor.clone());
        }
        if let Some(worker) = &mut mounter.worker {
            worker.sessions.insert(id, descriptor.clone());
        }
        let connection = Connection {
            descriptors: Rc::downgrade(&descriptor),
            requests: Vec::new(),
        };
        self.connections.insert(id, connection);
        csi.descriptors.insert(id, descriptor);
        csi.takeover.kept(id, Some(link));
    }

    /// The last pod of a connection ends.
    fn unmount(&mut self, which: usize) {
        let Some(id) = nth(self.connections.keys().copied().collect::<Vec<_>>().into_iter(), which) else {
            return;
        };
        let Some(container) = self.csi.as_mut() else { return };
        let Some(csi) = container.worker.as_mut() else { return };
        self.connections.remove(&id);
        container.supervisor.note(Letter::Forget(id.0), Rc::default());
        csi.descriptors.remove(&id);
        csi.takeover.unwanted(id);
    }

    fn take_with(&mut self, at: usize) {
        let Some(mounter) = &self.mounters[at].worker else {
            return;
        };
        let number = mounter.number;
        for id in mounter.sessions.keys() {
            for request in self
                .connections
                .get_mut(id)
                .into_iter()
                .flat_map(|connection| &mut connection.requests)
            {
                if *request == Request::Pending {
                    *request = Request::Taken(number);
                }
            }
        }
    }

    /// A mounter does not answer a letter in time, or does again.
    fn hear(&mut self, which: usize, answers: bool) {
        let links = self
            .mounters
            .iter()
            .filter_map(|container| container.worker.as_ref()?.link);
        let link = nth(links, which);
        let csi = self.csi.as_mut().and_then(|container| container.worker.as_mut());
        if let (Some(link), Some(csi)) = (link, csi) {
            csi.takeover.heard(link, answers);
        }
    }

    fn take(&mut self, which: usize) {
        let mounters = self.mounters.iter().filter_map(|container| container.worker.as_ref());
        let Some(mounter) = nth(mounters, which) else { return };
        let number = mounter.number;
        for id in mounter.sessions.keys() {
            let requests = self.connections.get_mut(id).map(|connection| &mut connection.requests);
            let pending =
                requests.and_then(|requests| requests.iter_mut().find(|request| **request == Request::Pending));
            if let Some(request) = pending {
                *request = Request::Taken(number);
                return;
            }
        }
    }

    fn answer(&mut self, which: usize) {
        let mounters = self.mounters.iter().filter_map(|container| container.worker.as_ref());
        let Some(mounter) = nth(mounters, which) else { return };
        for id in mounter.sessions.keys() {
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
            let taken = Request::Taken(mounter.number);
            if let Some(at) = connection.requests.iter().position(|request| *request == taken) {
                connection.requests.remove(at);
                return;
            }
        }
    }

    fn end_csi_worker(&mut self) {
        if let Some(container) = &mut self.csi {
            container.worker = None;
        }
        for mounter in self
            .mounters
            .iter_mut()
            .filter_map(|container| container.worker.as_mut())
        {
            mounter.link = None;
        }
    }

    fn end_mounter_worker(&mut self, which: usize) {
        if !self.mounters.is_empty() {
            self.end_mounter_worker_at(which % self.mounters.len());
        }
    }

    fn end_mounter_worker_at(&mut self, at: usize) {
        let ended = self.mounters[at].worker.take();
        let link = ended.and_then(|mounter| mounter.link);
        let csi = self.csi.as_mut().and_then(|container| container.worker.as_mut());
        if let (Some(link), Some(csi)) = (link, csi) {
            csi.takeover.left(link);
        }
    }

    /// A whole pod of the mounter goes, if somebody else has everything that it has.
    fn remove_mounter(&mut self, which: usize) {
        if self.mounters.is_empty() {
            return;
        }
        let at = which % self.mounters.len();
        let mut others = self.held_by_mounters_but(at);
        let supervisor = self.csi.iter().flat_map(|container| container.supervisor.entries());
        others.extend(supervisor.map(|entry| ConnectionId(entry.id)));
        if self.connections.keys().all(|id| others.contains(id)) {
            self.end_mounter_worker_at(at);
            self.mounters.remove(at);
        }
    }

    fn held_by_mounters(&self) -> Vec<ConnectionId> {
        self.held_by_mounters_but(usize::MAX)
    }

    fn held_by_mounters_but(&self, at: usize) -> Vec<ConnectionId> {
        let others = self.mounters.iter().enumerate().filter(|(other, _)| *other != at);
        let entries = others.flat_map(|(_, container)| container.supervisor.entries());
        entries.map(|entry| ConnectionId(entry.id)).collect()
    }

    /// Nobody dies any more: everything comes to rest, and every request is answered. Of the mounters that are dead, those
    /// whose pod can be spared do not come back: nobody does for them what a successor would.
    fn come_to_rest(&mut self) {
        self.start_csi();
        let dead = |node: &Self| node.mounters.iter().position(|container| container.worker.is_none());
        while let Some(at) = dead(self) {
            let count = self.mounters.len();
            self.remove_mounter(at);
            if self.mounters.len() == count {
                self.start_mounter(at);
            }
        }
        if self.mounters.is_empty() {
            self.happen(Event::AddMounter);
            self.start_mounter(0);
        }
        for _ in 0..self.mounters.len() {
            self.connect(0);
        }
        for which in 0..self.mounters.len() {
            self.hear(which, true);
        }
        let csi = self.csi.as_mut().and_then(|container| container.worker.as_mut());
        if let Some(csi) = csi.filter(|_| std::mem::take(&mut self.is_new)) {
            csi.takeover.settled();
        }
        for _ in 0..200 {
            self.work(0, None);
        }
        for which in 0..self.mounters.len() {
            self.look(which);
        }
        let requests = self.connections.values().map(|connection| connection.requests.len());
        for _ in 0..requests.sum() {
            for which in 0..self.mounters.len() {
                self.take(which);
                self.answer(which);
            }
        }
    }
}

fn nth<T>(items: impl Iterator<Item = T>, which: usize) -> Option<T> {
    let items: Vec<T> = items.collect();
    let count = items.len();
    items.into_iter().nth(which.checked_rem(count)?)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn no_request_is_lost_while_somebody_holds_its_connection(
        unanswered in prop_oneof![Just(Unanswered::Resent), Just(Unanswered::InLedger)],
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut node = Node::at_work(unanswered);
        for event in events {
            node.happen(event);
            for (id, connection) in &node.connections {
                prop_assert!(connection.descriptors.strong_count() > 0, "{id} was aborted by {event:?}");
            }
        }
        node.come_to_rest();
        let csi = node.csi.as_ref().and_then(|container| container.worker.as_ref()).unwrap();
        prop_assert!(csi.takeover.is_complete());
        for (id, connection) in &node.connections {
            prop_assert_eq!(&connection.requests, &vec![], "requests on {} are lost", id);
            prop_assert!(csi.takeover.keeps(*id) && csi.takeover.is_served(*id));
            let mounters = node.mounters.iter().map(|container| container.worker.as_ref());
            let all_hold = mounters.flatten().all(|worker| worker.sessions.contains_key(id));
            prop_assert!(all_hold, "a mounter lacks {}", id);
        }
        // What is unmounted is let go of by everybody.
        let held: Vec<_> = node.connections.values().map(|connection| connection.descriptors.clone()).collect();
        while !node.connections.is_empty() {
            node.unmount(0);
        }
        node.come_to_rest();
        prop_assert!(held.iter().all(|descriptors| descriptors.strong_count() == 0));
    }
}
