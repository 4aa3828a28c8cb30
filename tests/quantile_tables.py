"""Numbers of published tables: Student's t at 97.5 % by degrees of freedom, and Wilson's intervals at 95 %."""

T_TABLE = [
    (1, 12.7062),
    (4, 2.7764),
    (9, 2.2622),
    (19, 2.0930),
    (30, 2.0423),
    (40, 2.0211),
    (60, 2.0003),
    (120, 1.9799),
]
#: hits, trials, lower and upper end
WILSON = [
    (0, 20, 0.0, 0.1611),
    (20, 20, 0.8389, 1.0),
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (1, 1, 0.2065, 1.0),
]
