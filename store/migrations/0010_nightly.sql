-- The scan of every night: listing sweeps, the schedule of visits, what to infer anew, events for
-- people, and which snapshots were published. Private tables stay in the store they were made in.

CREATE TABLE internal.sweeps (
    scan INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    cursor VARCHAR,
    done BOOLEAN NOT NULL,
    pages INTEGER NOT NULL,
    listed BIGINT NOT NULL,
    known BIGINT NOT NULL,
    short_pages INTEGER NOT NULL,
    disordered INTEGER NOT NULL,
    newest TIMESTAMP,
    oldest TIMESTAMP
);
COMMENT ON TABLE internal.sweeps IS 'Listing sweeps: pages of one order, committed with the cursor after them';
COMMENT ON COLUMN internal.sweeps.scan IS 'Scan number';
COMMENT ON COLUMN internal.sweeps.kind IS 'full (everything by creation), created (what is new), modified (what changed)';
COMMENT ON COLUMN internal.sweeps.cursor IS 'Where the sweep goes on';
COMMENT ON COLUMN internal.sweeps.done IS 'It reached the end, or what earlier sweeps had';
COMMENT ON COLUMN internal.sweeps.pages IS 'Pages stored';
COMMENT ON COLUMN internal.sweeps.listed IS 'Models on them';
COMMENT ON COLUMN internal.sweeps.known IS 'Models on them that the store had at that very commit: the overlap with earlier sweeps';
COMMENT ON COLUMN internal.sweeps.short_pages IS 'Pages before the last that were empty';
COMMENT ON COLUMN internal.sweeps.disordered IS 'Pages that began newer than the page before them ended';
COMMENT ON COLUMN internal.sweeps.newest IS 'Newest date on the first page, UTC: where the next sweep may stop';
COMMENT ON COLUMN internal.sweeps.oldest IS 'Oldest date on the last page, UTC';

CREATE TABLE internal.schedule (
    model INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    visited_at TIMESTAMP NOT NULL,
    not_before TIMESTAMP NOT NULL,
    disabled BOOLEAN NOT NULL
);
COMMENT ON TABLE internal.schedule IS 'Private: When a model may be visited again; one row a visited model';
COMMENT ON COLUMN internal.schedule.model IS 'Model id';
COMMENT ON COLUMN internal.schedule.revision IS 'Revision that was visited; another one begins anew';
COMMENT ON COLUMN internal.schedule.failures IS 'Visits of it in a row that failed';
COMMENT ON COLUMN internal.schedule.visited_at IS 'Last visit, UTC';
COMMENT ON COLUMN internal.schedule.not_before IS 'Earliest next visit, UTC';
COMMENT ON COLUMN internal.schedule.disabled IS 'Three failures in a row: only a new commit brings it back';

CREATE TABLE internal.stale_shapes (
    shape_key VARCHAR NOT NULL
);
COMMENT ON TABLE internal.stale_shapes IS 'Private: Shapes whose models changed since they were last inferred';
COMMENT ON COLUMN internal.stale_shapes.shape_key IS 'Shape key';

CREATE TABLE internal.events (
    event_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    scan INTEGER NOT NULL,
    subject VARCHAR NOT NULL,
    severity VARCHAR NOT NULL,
    baseline BOOLEAN NOT NULL,
    body JSON NOT NULL,
    created_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.events IS 'Private: The outbox: what people are told, committed together with what it is about';
COMMENT ON COLUMN internal.events.event_id IS 'Stable digest of kind, scan and subject: the idempotency key of deliveries';
COMMENT ON COLUMN internal.events.kind IS 'finding.new, finding.fixed, repo.moved, repo.removed, edge.changed, scan.completed, publish.blocked, digest.daily, ...';
COMMENT ON COLUMN internal.events.scan IS 'Scan that caused it';
COMMENT ON COLUMN internal.events.subject IS 'Finding, model, child <- parent, or scan';
COMMENT ON COLUMN internal.events.severity IS 'info, low, medium, high or critical';
COMMENT ON COLUMN internal.events.baseline IS 'Found by the first scan: part of the baseline, no news';
COMMENT ON COLUMN internal.events.body IS 'Particulars';
COMMENT ON COLUMN internal.events.created_at IS 'When, UTC';

CREATE TABLE internal.deliveries (
    event_id VARCHAR NOT NULL,
    receiver VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    not_before TIMESTAMP NOT NULL,
    answer VARCHAR,
    changed_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.deliveries IS 'Private: Events on their way to receivers';
COMMENT ON COLUMN internal.deliveries.event_id IS 'Event';
COMMENT ON COLUMN internal.deliveries.receiver IS 'Name of the receiver in the configuration';
COMMENT ON COLUMN internal.deliveries.status IS 'pending, delivered, failed (given up) or disabled (the receiver said 410)';
COMMENT ON COLUMN internal.deliveries.attempts IS 'Attempts made';
COMMENT ON COLUMN internal.deliveries.not_before IS 'Earliest next attempt, UTC';
COMMENT ON COLUMN internal.deliveries.answer IS 'What the last attempt met: a status code or an error class';
COMMENT ON COLUMN internal.deliveries.changed_at IS 'Last attempt, UTC';

CREATE TABLE internal.publications (
    scan INTEGER NOT NULL,
    status VARCHAR NOT NULL,
    reasons JSON NOT NULL,
    counts JSON NOT NULL,
    accepted VARCHAR,
    judged_at TIMESTAMP NOT NULL
);
COMMENT ON TABLE internal.publications IS 'Private: Which snapshots passed the publish gate, and why others did not';
COMMENT ON COLUMN internal.publications.scan IS 'Scan whose snapshot was judged';
COMMENT ON COLUMN internal.publications.status IS 'published or blocked';
COMMENT ON COLUMN internal.publications.reasons IS 'What the gate had against it';
COMMENT ON COLUMN internal.publications.counts IS 'Rows by kind, compared at the next gate';
COMMENT ON COLUMN internal.publications.accepted IS 'Reason given by a person for publishing all the same';
COMMENT ON COLUMN internal.publications.judged_at IS 'When, UTC';

CREATE VIEW v1.sweeps AS
SELECT s.scan, s.kind, s.done, s.pages, s.listed, s.known, s.short_pages, s.disordered, s.newest,
    s.oldest
FROM internal.sweeps s;
COMMENT ON VIEW v1.sweeps IS 'Listing sweeps of nightly scans, with what shows whether a listing was whole';
COMMENT ON COLUMN v1.sweeps.scan IS 'Scan number';
COMMENT ON COLUMN v1.sweeps.kind IS 'full (everything by creation), created (what is new), modified (what changed)';
COMMENT ON COLUMN v1.sweeps.done IS 'It reached the end, or what earlier sweeps had';
COMMENT ON COLUMN v1.sweeps.pages IS 'Pages stored';
COMMENT ON COLUMN v1.sweeps.listed IS 'Models on them';
COMMENT ON COLUMN v1.sweeps.known IS 'Models on them that the store had at that very commit';
COMMENT ON COLUMN v1.sweeps.short_pages IS 'Pages before the last that were empty';
COMMENT ON COLUMN v1.sweeps.disordered IS 'Pages that began newer than the page before them ended';
COMMENT ON COLUMN v1.sweeps.newest IS 'Newest date on the first page, UTC';
COMMENT ON COLUMN v1.sweeps.oldest IS 'Oldest date on the last page, UTC';
