-- The address that traffic to a route leaves with, as an admin chose. An empty selector stands for
-- everybody for whom no other row of the route does.
CREATE TABLE route_egress (
    node_id   BIGINT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    prefix    TEXT COLLATE "C" NOT NULL,
    selector  TEXT COLLATE "C" NOT NULL,
    address   TEXT   NOT NULL,
    chosen_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, prefix, selector)
);
