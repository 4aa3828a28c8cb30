"""What two clusters, configurations or rulesets do differently to first packets: exhaustively, by classes of packets.

Packet space is partitioned by what a packet's way depended on. One packet of a class is followed as any probe is; what
rules, routes and the world asked of it on its way bounds the class. The rest of space is followed next. So every packet
belongs to a class whose packets all fare alike, whoever wrote the rules.
"""
